// A gRPC server with one empty method, on a loopback port that the system picks and that it prints on stdout. Ends
// when stdin does, so that it cannot outlive who started it.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>

#include "empty.grpc.pb.h"

namespace {

class EmptyServiceImpl final : public smt::bench::EmptyService::CallbackService {
  grpc::ServerUnaryReactor* Call(grpc::CallbackServerContext* context, const smt::bench::Empty*,
                                 smt::bench::Empty*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

}  // namespace

int main() {
  EmptyServiceImpl service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || port == 0) {
    std::fputs("empty-server: cannot listen on a port of 127.0.0.1\n", stderr);
    return 1;
  }
  std::printf("%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
  return 0;
}
