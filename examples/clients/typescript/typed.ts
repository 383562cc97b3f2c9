// Masks at two levels and a loss with its gradient, from a CASS server over gRPC, with types:
//
//     npm ci && npm run build && node build/typed.js localhost:50051 [SECONDS [EXPECTED]]
//
// A call may take SECONDS with all its tries. EXPECTED is a file of the numbers to compare with.
import * as protobuf from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Client, credentials } from "@grpc/grpc-js";
import { call, report } from "./call.js";
import { CassService, DataType, Reduction } from "./generated/cass/v1/cass_pb.js";
import { RetryInfoSchema, StatusSchema } from "./generated/status_pb.js";

const [address, seconds = "10", expected] = process.argv.slice(2);
const client = new Client(address, credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1, // an answer may be larger than gRPC's 4 MiB
});

/** The answer to a request; the types are those of the method. */
function ask<I extends protobuf.DescMessage, O extends protobuf.DescMessage>(
  { parent, name, input, output }: protobuf.DescMethodUnary<I, O>,
  request: protobuf.MessageInitShape<I>,
): Promise<protobuf.MessageShape<O>> {
  const bytes = Buffer.from(protobuf.toBinary(input, protobuf.create(input, request)));
  return call(Number(seconds), retryDelay, (options) => (
    new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        `/${parent.typeName}/${name}`,
        (request) => request,
        (answer) => protobuf.fromBinary(output, answer),
        bytes,
        options,
        (error, answer) => answer ? resolve(answer) : reject(error),
      );
    })
  ));
}

function retryDelay(details: Uint8Array): number | undefined {
  for (const detail of protobuf.fromBinary(StatusSchema, details).details) {
    const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
    if (delay) return Number(delay.seconds) + 1e-9 * delay.nanos;
  }
}

/** As in float32 tensors and boxes, on a little-endian machine. */
const encoded = (values: number[]) => new Uint8Array(new Float32Array(values).buffer);

// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
const xyxy = [100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470];
const levels = [{ height: 60, width: 80 }, { height: 30, width: 40 }];
const images = {
  boxes: { xyxy: encoded(xyxy), counts: [2, 1] },
  imageSizes: { heights: [480], widths: [640] },
};
const { masks } = await ask(CassService.method.generateMask, { ...images, featureMaps: levels });

// Logits at stride 16, to be compared with a mask that the server makes from the same boxes.
const logits = Array.from({ length: 2 * 30 * 40 }, (_, i) => (i % 9) / 4 - 1);
const { loss, grad } = await ask(CassService.method.computeLoss, {
  logits: { dtype: DataType.FLOAT32, shape: [2, 30, 40], data: encoded(logits) },
  source: { case: "mask", value: { ...images, featureMaps: [levels[1]] } },
  lossSpec: { reduction: Reduction.PER_OBJECT },
  returnGrad: true,
});
report([...masks, loss!, grad!].map((tensor) => tensor.data), expected);
client.close();
