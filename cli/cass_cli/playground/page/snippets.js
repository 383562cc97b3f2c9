// What is set, as others can use it: Python, JSON, a command, and a COCO file of the boxes.
import { requestOf } from "./model/api.js";
import { cellsOf, changesOf, config, state, weightChanges } from "./model/state.js";
import { areOriginal, dataSet, nameOfFile } from "./pictures.js";

const plain = (value) => Math.round(value * 100) / 100;

function literal(value) {
  if (value === null) return 'float("inf")'; // only an upper end of a range is null
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "string" ? `"${value}"` : String(value);
}

const keywords = (changes) =>
  Object.entries(changes)
    .map(
      ([name, value]) =>
        `${name}=${name === "level_ranges" && value === null ? "None" : literal(value)}`,
    )
    .join(", ");
const rows = (items) =>
  `[\n${items.map(({ xyxy }) => `    ${literal(xyxy.map(plain))},\n`).join("")}]`;

export function pythonOf(side) {
  const local = config.target === "local:";
  const changes = keywords(changesOf(side)),
    weights = weightChanges(side);
  const weighted = state.boxes.some((box) => box.weight !== 1);
  const extras = Object.keys(weights).length > 0;
  const imports = ["MaskSpec", ...(extras ? ["WeightSpec"] : [])];
  const owner = side.spec.merge === "max";
  const call = [
    "[boxes]",
    `image_size=(${state.size.join(", ")})`,
    `feature_map=(${cellsOf().join(", ")})`,
    "spec=spec",
    ...(extras ? [`weight_spec=WeightSpec(${keywords(weights)})`] : []),
    ...(state.ignored.length ? ["ignore=[ignored]"] : []),
    ...(state.valid ? [`valid_region=[${literal(state.valid.xyxy.map(plain))}]`] : []),
    ...(weighted ? [`box_weights=[${literal(state.boxes.map((box) => box.weight))}]`] : []),
    ...(owner ? ["return_owner=True"] : []),
    "return_weights=True",
  ];
  const results = owner ? "mask, owner, weights" : "mask, weights";
  const indent = local ? "" : "    ";
  const body = call.map((argument) => `${indent}    ${argument},\n`).join("");
  return [
    local
      ? `from cass_core import ${[...imports, "generate_mask"].join(", ")}`
      : `from cass_client import CassClient\nfrom cass_core import ${imports.join(", ")}`,
    "",
    `boxes = ${state.boxes.length ? rows(state.boxes) : "None"}`,
    ...(state.ignored.length ? [`ignored = ${rows(state.ignored)}`] : []),
    `spec = MaskSpec.${side.preset}()${changes && `.replace(${changes})`}`,
    ...(local ? [] : [`with CassClient(${JSON.stringify(config.target)}) as client:`]),
    `${indent}${results} = ${local ? "" : "client."}generate_mask(\n${body}${indent})`,
    "",
  ].join("\n");
}

export function jsonOf(side) {
  const request = requestOf(
    { ...state, boxes: state.boxes.map((box) => ({ ...box, xyxy: box.xyxy.map(plain) })) },
    side,
  );
  // Lists of numbers on one line.
  const onOneLine = (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]");
  return `${JSON.stringify(request, null, 2).replace(/\[[^[\]{}"]*\]/g, onOneLine)}\n`;
}

const quoted = (text) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

export function commandOf(side) {
  const written = (value) =>
    JSON.stringify(value, (_, one) => (one === null ? "∞" : one)).replaceAll('"∞"', "Infinity");
  const file = quoted(areOriginal() ? dataSet.file : "playground.json");
  const changes = Object.entries(changesOf(side)).map(
    ([name, value]) =>
      `--set ${quoted(`${name}=${typeof value === "string" ? value : written(value)}`)}`,
  );
  return (
    [
      `cass mask ${file} --stride ${state.stride} --preset ${side.preset}`,
      ...changes,
      ...(config.target === "local:" ? [] : [`--server ${quoted(config.target)}`]),
      "--out masks.npz",
    ].join(" \\\n    ") + "\n"
  );
}

export const needsFile = () => !areOriginal();

// The boxes as an annotations file, for the command.
export function cocoOf() {
  const names = [...new Set(state.boxes.map((box) => box.label || "object"))];
  const [height, width] = state.size;
  const entry = ({ xyxy: [x1, y1, x2, y2] }, more) => ({
    image_id: 1,
    bbox: [x1, y1, x2 - x1, y2 - y1].map(plain),
    ...more,
  });
  return `${JSON.stringify(
    {
      images: [{ id: 1, file_name: nameOfFile(), height, width }],
      categories: names.map((name, i) => ({ id: i + 1, name })),
      annotations: [
        ...state.boxes.map((box) =>
          entry(box, { category_id: names.indexOf(box.label || "object") + 1 }),
        ),
        ...state.ignored.map((region) => entry(region, { category_id: 1, ignore: 1 })),
      ].map((annotation, i) => ({ id: i + 1, ...annotation })),
    },
    null,
    1,
  )}\n`;
}
