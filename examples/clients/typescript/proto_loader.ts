// Masks at two levels and a loss with its gradient, from a CASS server over gRPC, without
// generated code, as cass.proto is read when the program starts:
//
//     npm ci && npm run build && node build/proto_loader.js localhost:50051 [SECONDS [EXPECTED]]
//
// A call may take SECONDS with all its tries. EXPECTED is a file of the numbers to compare with.
import { credentials, makeClientConstructor, type ServiceDefinition } from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import { call, report } from "./call.js";

const [address, seconds = "10", expected] = process.argv.slice(2);
const clients = `${import.meta.dirname}/../..`;
const definitions = loadSync(["cass/v1/cass.proto", "status.proto"], {
  includeDirs: [`${clients}/../../proto`, clients],
  keepCase: true, // the names of the .proto
  json: true, // reads what is in an Any
});
const service = definitions["cass.v1.CassService"] as ServiceDefinition;
const client = new (makeClientConstructor(service, "CassService"))(
  address,
  credentials.createInsecure(),
  { "grpc.max_receive_message_length": -1 }, // an answer may be larger than gRPC's 4 MiB
);

function ask(method: string, request: object): Promise<any> {
  return call(Number(seconds), retryDelay, (options) => (
    new Promise((resolve, reject) => {
      client[method](request, options, (error: Error | null, answer: object) => (
        error ? reject(error) : resolve(answer)
      ));
    })
  ));
}

function retryDelay(details: Buffer): number | undefined {
  const status = definitions["google.rpc.Status"] as MessageTypeDefinition<object, any>;
  for (const { retry_delay: delay } of status.deserialize(details).details ?? []) {
    if (delay) return Number(delay.seconds ?? 0) + 1e-9 * (delay.nanos ?? 0);
  }
}

/** As in float32 tensors and boxes, on a little-endian machine. */
const encoded = (values: number[]) => Buffer.from(new Float32Array(values).buffer);

// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
const xyxy = [100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470];
const levels = [{ height: 60, width: 80 }, { height: 30, width: 40 }];
const images = {
  boxes: { xyxy: encoded(xyxy), counts: [2, 1] },
  image_sizes: { heights: [480], widths: [640] },
};
const { masks } = await ask("GenerateMask", { ...images, feature_maps: levels });

// Logits at stride 16, to be compared with a mask that the server makes from the same boxes.
const logits = Array.from({ length: 2 * 30 * 40 }, (_, i) => (i % 9) / 4 - 1);
const { loss, grad } = await ask("ComputeLoss", {
  logits: { dtype: "DATA_TYPE_FLOAT32", shape: [2, 30, 40], data: encoded(logits) },
  mask: { ...images, feature_maps: [levels[1]] },
  loss_spec: { reduction: "REDUCTION_PER_OBJECT" },
  return_grad: true,
});
report([...masks, loss, grad].map((tensor) => tensor.data), expected);
client.close();
