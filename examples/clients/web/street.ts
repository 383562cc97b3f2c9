// The requests of both pages, and how they show the answers.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ComputeLossRequestSchema, DataType, Reduction } from "./generated/cass/v1/cass_pb.js";

/** Where the server serves HTTP. */
export const server = (document.currentScript as HTMLScriptElement).dataset.server!;

/** As in float32 tensors and boxes, on a little-endian machine. */
const encoded = (values: number[]) => new Uint8Array(new Float32Array(values).buffer);

// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
const xyxy = [100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470];
const levels = [{ height: 60, width: 80 }, { height: 30, width: 40 }];
const images = {
  boxes: { xyxy: encoded(xyxy), counts: [2, 1] },
  imageSizes: { heights: [480], widths: [640] },
};

export const maskRequest = { ...images, featureMaps: levels };

/** Without feature maps, which the server refuses. */
export const wrongRequest = { ...images, featureMaps: [] };

/** Logits at stride 16, compared with a mask that the server makes from the same boxes. */
export const lossRequest: MessageInitShape<typeof ComputeLossRequestSchema> = {
  logits: {
    dtype: DataType.FLOAT32,
    shape: [2, 30, 40],
    data: encoded(Array.from({ length: 2 * 30 * 40 }, (_, i) => (i % 9) / 4 - 1)),
  },
  source: { case: "mask", value: { ...images, featureMaps: [levels[1]] } },
  lossSpec: { reduction: Reduction.PER_OBJECT },
  returnGrad: true,
};

/** Shows the bytes of all tensors, and what an error says of a request without feature maps. */
export async function report(
  tensors: () => Promise<Uint8Array[]>,
  refusal: () => Promise<string[]>,
): Promise<void> {
  const shown = document.getElementById("found")!;
  try {
    const hexadecimal = (await tensors()).map((bytes) => (
      Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
    ));
    shown.textContent = JSON.stringify({ tensors: hexadecimal, refusal: await refusal() });
  } catch (error) {
    shown.textContent = `failed: ${error}`;
  }
}
