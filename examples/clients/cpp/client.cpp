// Masks at two levels and a loss with its gradient, from a CASS server over gRPC in C++:
//
//     make && build/client localhost:50051 [SECONDS [EXPECTED]]
//
// A call may take SECONDS with all its tries. EXPECTED is a file of the numbers to compare with.
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "call.h"
#include "cass/v1/cass.grpc.pb.h"

using namespace cass::v1;
using Numbers = std::vector<float>;

// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
GenerateMaskRequest MaskRequest() {
  GenerateMaskRequest request;
  const Numbers xyxy{100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470};
  request.mutable_boxes()->set_xyxy(xyxy.data(), 4 * xyxy.size());  // on a little-endian machine
  for (int count : {2, 1}) request.mutable_boxes()->add_counts(count);
  request.mutable_image_sizes()->add_heights(480);
  request.mutable_image_sizes()->add_widths(640);
  for (int stride : {8, 16}) {
    FeatureMap* map = request.add_feature_maps();
    map->set_height(480 / stride);
    map->set_width(640 / stride);
  }
  return request;
}

// Logits at stride 16, to be compared with a mask that the server makes from the same boxes.
ComputeLossRequest LossRequest() {
  ComputeLossRequest request;
  *request.mutable_mask() = MaskRequest();
  request.mutable_mask()->mutable_feature_maps()->DeleteSubrange(0, 1);
  Numbers logits(2 * 30 * 40);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = i % 9 / 4.0f - 1;
  request.mutable_logits()->set_dtype(DATA_TYPE_FLOAT32);
  for (int side : {2, 30, 40}) request.mutable_logits()->add_shape(side);
  request.mutable_logits()->set_data(logits.data(), 4 * logits.size());
  request.mutable_loss_spec()->set_reduction(REDUCTION_PER_OBJECT);
  request.set_return_grad(true);
  return request;
}

int main(int argc, char** argv) try {
  const std::chrono::duration<double> timeout(argc > 2 ? std::stod(argv[2]) : 10);
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);  // an answer may be larger than gRPC's 4 MiB
  const auto stub = CassService::NewStub(
      grpc::CreateCustomChannel(argv[1], grpc::InsecureChannelCredentials(), options));
  GenerateMaskResponse masks;
  Call(timeout, [&](auto context) { return stub->GenerateMask(context, MaskRequest(), &masks); });
  ComputeLossResponse loss;
  Call(timeout, [&](auto context) { return stub->ComputeLoss(context, LossRequest(), &loss); });
  float value;
  std::memcpy(&value, loss.loss().data().data(), sizeof value);
  std::cout << "loss " << value << '\n';

  if (argc < 4) return 0;
  std::ifstream file(argv[3], std::ios::binary);
  const std::string expected(std::istreambuf_iterator<char>(file), {});
  if (masks.masks(0).data() + masks.masks(1).data() + loss.loss().data() + loss.grad().data() !=
      expected)
    throw std::runtime_error("other numbers than expected");
  std::cout << expected.size() / 4 << " numbers as expected\n";
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
