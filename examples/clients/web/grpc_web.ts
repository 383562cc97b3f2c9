// The same as connect.ts by gRPC-Web, with the package `grpc-web`. It has a generator of its own
// (mode=grpcweb); here the messages are those of @bufbuild/protobuf.
import * as protobuf from "@bufbuild/protobuf";
import { GrpcWebClientBase, MethodDescriptor, MethodType, RpcError } from "grpc-web";
import { CassService } from "./generated/cass/v1/cass_pb.js";
import { BadRequestSchema, StatusSchema } from "./generated/status_pb.js";
import { lossRequest, maskRequest, report, server, wrongRequest } from "./street.js";

const client = new GrpcWebClientBase({ format: "binary", maxReceiveMessageSize: 0 });

/** The answer to a request; the types are those of the method. */
function ask<I extends protobuf.DescMessage, O extends protobuf.DescMessage>(
  { parent, name, input, output }: protobuf.DescMethodUnary<I, O>,
  request: protobuf.MessageInitShape<I>,
): Promise<protobuf.MessageShape<O>> {
  const path = `/${parent.typeName}/${name}`;
  const method = new MethodDescriptor<protobuf.MessageShape<I>, protobuf.MessageShape<O>>(
    path,
    MethodType.UNARY,
    Object as never,
    Object as never,
    (message: protobuf.MessageShape<I>) => protobuf.toBinary(input, message),
    (bytes: Uint8Array) => protobuf.fromBinary(output, bytes),
  );
  return client.unaryCall(server + path, protobuf.create(input, request), {}, method);
}

report(async () => {
  const { generateMask, computeLoss } = CassService.method;
  const { masks } = await ask(generateMask, maskRequest);
  const { loss, grad } = await ask(computeLoss, lossRequest);
  return [...masks, loss!, grad!].map((tensor) => tensor.data);
}, async () => {
  try {
    await ask(CassService.method.generateMask, wrongRequest);
  } catch (error) {
    const { code, metadata } = error as RpcError;
    const packed = atob(metadata["grpc-status-details-bin"]);
    const status = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const [detail] = protobuf.fromBinary(StatusSchema, status).details;
    const bad = protobuf.fromBinary(BadRequestSchema, detail.value);
    return [String(code), ...bad.fieldViolations.map((one) => one.field)];
  }
  return [];
});
