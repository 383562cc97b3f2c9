// What both pages ask for, and how they show what they got.

/** Where the server serves HTTP. */
export const server = (document.currentScript as HTMLScriptElement).dataset.server!;

/** As in float32 tensors and boxes, on a little-endian machine. */
export const encoded = (values: number[]) => new Uint8Array(new Float32Array(values).buffer);

// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
const xyxy = [100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470];
export const levels = [{ height: 60, width: 80 }, { height: 30, width: 40 }];
export const images = {
  boxes: { xyxy: encoded(xyxy), counts: [2, 1] },
  imageSizes: { heights: [480], widths: [640] },
};

/** Logits at stride 16. */
export const logits = Array.from({ length: 2 * 30 * 40 }, (_, i) => (i % 9) / 4 - 1);

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
