// Masks at two levels and a loss with its gradient in a web page, by Connect:
//
//     npm ci && npm run build && xdg-open page.html
//
// beside `cass-server serve --http-port 8080 --http-origins '*'`.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { CassService } from "./generated/cass/v1/cass_pb.js";
import { BadRequestSchema } from "./generated/status_pb.js";
import { lossRequest, maskRequest, report, server, wrongRequest } from "./street.js";

const client = createClient(CassService, createConnectTransport({ baseUrl: server }));

report(async () => {
  const { masks } = await client.generateMask(maskRequest);
  const { loss, grad } = await client.computeLoss(lossRequest);
  return [...masks, loss!, grad!].map((tensor) => tensor.data);
}, async () => {
  try {
    await client.generateMask(wrongRequest);
  } catch (error) {
    const refused = ConnectError.from(error);
    const [detail] = refused.findDetails(BadRequestSchema);
    return [Code[refused.code], ...detail.fieldViolations.map((one) => one.field)];
  }
  return [];
});
