// The HTTP service as this page asks it; see /openapi.json beside it. Pictures are never sent.
import { cellsOf, changesOf, weightChanges } from "./state.js";

export class Refused extends Error {
  // the request is wrong
  constructor({ message, field = "", reason = "" }) {
    super(message);
    Object.assign(this, { field, reason });
  }
}
export class Away extends Error {} // nobody answers, or not now

export const getPresets = () => ask("v1/presets");
export const getInfo = () => ask("server.json"); // of the server that computes

// The request of a side, without what is only this page's way of asking. Defaults are left out.
export function requestOf(state, side) {
  const spec = changesOf(side),
    weights = weightChanges(side);
  const weighted = state.boxes.some((box) => box.weight !== 1);
  return {
    boxes: [state.boxes.map((box) => box.xyxy)],
    image_size: state.size,
    feature_map: cellsOf(state),
    mask_spec: Object.keys(spec).length ? { preset: side.preset, ...spec } : side.preset,
    ...(Object.keys(weights).length && { weight_spec: weights }),
    ...(state.ignored.length && { ignore: [state.ignored.map((region) => region.xyxy)] }),
    ...(state.valid && { valid_region: [state.valid.xyxy] }),
    ...(weighted && { box_weights: [state.boxes.map((box) => box.weight)] }),
  };
}

// Mask, owner map (null where nobody owns a patch) and weights of the one image and map.
export async function getMasks(request, owners) {
  const body = { ...request, return_owner: owners, return_weights: true, encoding: "base64" };
  const started = performance.now();
  const { timings, ...answer } = await ask("v1/masks", body);
  return {
    mask: tensor(answer.masks[0]),
    owner: owners ? tensor(answer.owners[0]) : null,
    weights: tensor(answer.weights[0]),
    milliseconds: performance.now() - started,
    timings,
  };
}

async function ask(path, body) {
  let response, answer;
  try {
    response = await fetch(path, {
      cache: "no-store",
      ...(body && {
        method: "POST",
        headers: { "content-type": "application/json", "cass-timings": "1" },
        body: JSON.stringify(body),
      }),
    });
    answer = await response.json();
  } catch (error) {
    throw new Away("The playground does not answer: is its command still running?", {
      cause: error,
    });
  }
  if (response.ok) return { ...answer, timings: response.headers.get("server-timing") ?? "" };
  const error = answer.error ?? { message: `HTTP status ${response.status}` };
  if (response.status === 400 || response.status === 413) throw new Refused(error);
  throw new Away(error.message);
}

const KINDS = { float32: Float32Array, int32: Int32Array };

function tensor({ data, dtype, shape }) {
  const text = atob(data),
    bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return { values: new KINDS[dtype](bytes.buffer), shape: shape.slice(1) };
}
