// Masks at two levels and a loss with its gradient in a web page, by Connect:
//
//     npm ci && npm run build && xdg-open page.html
//
// beside `cass-server serve --http-port 8080 --http-origins '*'`.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { CassService, DataType, Reduction } from "./generated/cass/v1/cass_pb.js";
import { BadRequestSchema } from "./generated/status_pb.js";
import { encoded, images, levels, logits, report, server } from "./street.js";

const client = createClient(CassService, createConnectTransport({ baseUrl: server }));

report(async () => {
  const { masks } = await client.generateMask({ ...images, featureMaps: levels });

  // To be compared with a mask that the server makes from the same boxes.
  const { loss, grad } = await client.computeLoss({
    logits: { dtype: DataType.FLOAT32, shape: [2, 30, 40], data: encoded(logits) },
    source: { case: "mask", value: { ...images, featureMaps: [levels[1]] } },
    lossSpec: { reduction: Reduction.PER_OBJECT },
    returnGrad: true,
  });
  return [...masks, loss!, grad!].map((tensor) => tensor.data);
}, async () => {
  try {
    await client.generateMask({ ...images, featureMaps: [] });
  } catch (error) {
    const told = ConnectError.from(error);
    const [detail] = told.findDetails(BadRequestSchema);
    return [Code[told.code], ...detail.fieldViolations.map((one) => one.field)];
  }
  return [];
});
