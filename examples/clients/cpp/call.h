// Calls that are repeated where that can help.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>

#include "status.pb.h"

using Clock = std::chrono::system_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

// Failures that another try may not meet: the server is full, away or stopping, or a proxy dropped
// the call. Every call is a pure function of its request, so that repeating it does no harm.
inline bool IsPassing(grpc::StatusCode code) {
  return code == grpc::RESOURCE_EXHAUSTED || code == grpc::UNAVAILABLE || code == grpc::CANCELLED;
}

// How long to wait: until the server's RetryInfo says, or ever longer without one.
inline Milliseconds DelayAfter(const grpc::Status& status, int tries) {
  static thread_local std::mt19937 random{std::random_device{}()};
  Milliseconds delay(std::min(1000, 20 << std::min(tries, 6)));
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details())
    if (detail.UnpackTo(&retry))
      delay = Milliseconds(1e3 * retry.retry_delay().seconds() + 1e-6 * retry.retry_delay().nanos());
  return delay * std::uniform_real_distribution(1.0, 1.25)(random);  // not all callers at once
}

// Sends until there is an answer. One deadline holds for all tries; the server knows it, and skips
// what nobody waits for any more. Throws what the last try failed with.
template <class Send>
void Call(Milliseconds timeout, Send send) {
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout);
  for (int tries = 0;; ++tries) {
    grpc::ClientContext context;  // a token: AddMetadata("authorization", "Bearer " + token)
    context.set_deadline(deadline);
    const grpc::Status status = send(&context);
    if (status.ok()) return;
    const Milliseconds delay = DelayAfter(status, tries);
    if (!IsPassing(status.error_code()) || Clock::now() + delay >= deadline)
      throw std::runtime_error(status.error_message());
    std::this_thread::sleep_for(delay);
  }
}
