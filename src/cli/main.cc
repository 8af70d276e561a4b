// frugal VERB ...: parses, runs one verb, ends with its exit code (0 done, 1 failed, 2 usage, 3 bad model, 4
// does not fit, 5 I/O, 6 out of memory).
#include <csignal>

#include "src/cli/common.h"
#include "src/cli/verbs.h"

namespace frugal {
namespace {

constexpr AddVerbFunction kVerbs[] = {AddRunVerb,   AddPackVerb,  AddTrainVerb, AddPlanVerb,   AddEvalVerb,
                                      AddBenchVerb, AddProbeVerb, AddCheckVerb, AddInspectVerb};

int Main(int argc, char** argv) {
  // A closed pipe is an error of the write, which StandardOutput understands.
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("frugal runs language models that are larger than the memory they are given.", "frugal");
  app.require_subcommand(1);
  app.set_version_flag("--version", "frugal " FRUGAL_VERSION);
  Exit exit;
  for (const AddVerbFunction add : kVerbs) add(app, exit);
  AddEnvironmentTwins(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version come as "errors" with code 0; every real one is a usage error.
    return app.exit(error) == 0 ? 0 : static_cast<int>(ErrorCode::kUsage);
  }
  return exit.code();
}

}  // namespace
}  // namespace frugal

int main(int argc, char** argv) { return frugal::Main(argc, argv); }
