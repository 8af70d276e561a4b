// frugal VERB ...: parses, runs one verb, ends with its exit code (0 done, 1 failed, 2 usage, 3 bad model, 4
// does not fit, 5 I/O, 6 out of memory).
#include <fmt/format.h>
#include <malloc.h>

#include <csignal>
#include <new>

#include "src/cli/common.h"
#include "src/cli/verbs.h"

namespace frugal {
namespace {

constexpr AddVerbFunction kVerbs[] = {AddRunVerb,   AddPackVerb,  AddTrainVerb, AddPlanVerb,   AddEvalVerb,
                                      AddBenchVerb, AddProbeVerb, AddCheckVerb, AddInspectVerb,
                                      AddSimulateVerb, AddSynthVerb};

int Main(int argc, char** argv) {
  // What an engine gives back goes back to the system, where the next engine of the same process needs it: glibc's threshold would grow
  // with every large block that is freed, and keep megabytes that no line of the ledger has.
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);
  mallopt(M_TRIM_THRESHOLD, 128 * 1024);
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
  } catch (const CLI::Success& asked) {
    return app.exit(asked);  // --help, --version
  } catch (const CLI::ParseError& error) {
    const std::vector<CLI::App*> verbs = app.get_subcommands();
    fmt::print(stderr, "frugal: {} (see `frugal {}--help`)\n", error.what(),
               verbs.empty() ? std::string() : verbs[0]->get_name() + " ");
    return static_cast<int>(ErrorCode::kUsage);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "frugal: out of memory\n");
    return static_cast<int>(ErrorCode::kOutOfMemory);
  }
  return exit.code();
}

}  // namespace
}  // namespace frugal

int main(int argc, char** argv) { return frugal::Main(argc, argv); }
