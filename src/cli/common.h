// What the verbs share: how a verb ends, the flags that become EngineOptions, the first line, standard
// output, Ctrl-C. The only folder that prints, reads the environment and knows of signals. Main thread only,
// except interrupted().
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/engine/engine.h"
#include "src/format/output_file.h"

namespace frugal {

// How the program ends. A verb's callback calls Run(sub, work) once.
class Exit {
 public:
  // Makes `work` the subcommand's callback. Its error is printed ("frugal: MESSAGE", stderr) and becomes the
  // exit code; an exception of a library does too (bad_alloc: 6, others: 1). A bad model that is a checkpoint
  // (--model) is told how to pack it, where the verb takes packed models alone.
  void RunAsCallback(CLI::App& sub, std::function<Status()> work);
  // For work outside a callback.
  void Run(const std::function<Status()>& work);
  int code() const { return code_; }

 private:
  int code_ = 0;
};

// --- engine flags
// -------------------------------------------------------------------------------------------------------------------

// As typed; Resolve checks them. Lives as long as the App that parses into it.
struct EngineFlags {
  std::string model_path;
  std::string ram;  // empty: the default
  uint32_t context = 0;
  int num_threads = 0;  // 0: the default
  std::string kv = "f16";
  std::string resident = "keep";
  std::string mode = "auto";
  std::string selector = "auto", predictor_path, activation, sparsify_path;
  bool sparsify = false;
  bool no_predictor = false, no_window = false, no_bundling = false, no_overlap = false, no_early = false;
  bool sketch_early = false;
  uint32_t window_tokens = 0;
  std::string slots;
  std::string policy = "decay";
  std::string popular;
  std::string io = "auto", read_gap = "auto";
  std::string verify = "first";
  uint32_t batch = 0;
  uint64_t seed = 0;
  // Whether the flag was given (the environment counts), set by the parse.
  CLI::Option* window_option = nullptr;
};

// Adds MODEL (positional, -m, --model) and all engine flags.
void AddEngineFlags(CLI::App& sub, EngineFlags& flags);
// MODEL alone: for verbs that open no engine.
void AddModelArgument(CLI::App& sub, std::string& model_path);
// kUsage naming the flag and what it takes.
Result<EngineOptions> ResolveEngineFlags(const EngineFlags& flags);

// Where --mode left it open and the device was measured: hybrid mode instead of flash where selecting neurons does not pay. In flash mode,
// whether a gate sketch guesses before attention.
Status ChooseMode(const EngineFlags& flags, EngineOptions* options);

// The value of --activation: a sparse one; kUsage for others.
Result<Activation> ParseActivationFlag(const std::string& text);

// The value of --io.
Result<IoBackend> ParseIoBackend(std::string_view text);

// kUsage naming the way out when the file exists and is not to be overwritten.
Status CheckOverwrite(const std::string& path, bool force);

// Gives every option of the app and of its subcommands the environment variable FRUGAL_LONG_NAME (--top-k:
// FRUGAL_TOP_K).
void AddEnvironmentTwins(CLI::App& app);

// One of `choices` by name; kUsage lists them all. `flag` is for the message.
template <typename T>
struct Choice {
  const char* name;
  T value;
};
Error NotAChoice(std::string_view flag, std::string_view text, const std::vector<std::string_view>& names);
template <typename T, size_t n>
Result<T> ParseChoice(std::string_view flag, std::string_view text, const Choice<T> (&choices)[n]) {
  std::vector<std::string_view> names;
  for (const Choice<T>& choice : choices) {
    if (text == choice.name) return choice.value;
    names.push_back(choice.name);
  }
  return NotAChoice(flag, text, names);
}

// "50%" or "0.5" -> 0.5; kUsage outside 0..1.
Result<double> ParseShare(std::string_view flag, std::string_view text);
// "2,17,5" (spaces allowed) -> ids; kUsage naming the place of what is no id. At least one.
Result<std::vector<int32_t>> ParseIds(std::string_view text);
// ParseSize with the flag's name in the message; 0 is refused.
Result<uint64_t> ParseSizeFlag(std::string_view flag, std::string_view text);

// --- texts
// --------------------------------------------------------------------------------------------------------------------------

// The engine's first line on stderr: Engine::Describe(), the budget, and what the plan reduced.
void PrintFirstLine(const Engine& engine);
// Reads standard input to its end; kUsage above max_bytes.
Result<std::string> ReadStandardInput(uint64_t max_bytes);
bool StandardInputIsPiped();
bool StandardErrorIsTerminal();

// Standard output. A reader that went away (`| head`) is no error: closed() becomes true and the verb ends
// quietly.
class StandardOutput {
 public:
  // Writes and flushes. kIo for what is not a reader that went away (a full disk).
  Status Print(std::string_view text);
  bool closed() const { return closed_; }

 private:
  bool closed_ = false;
};

// --- Ctrl-C
// -------------------------------------------------------------------------------------------------------------------------

// From now on the first SIGINT or SIGTERM sets interrupted(); the second ends the process.
void InstallInterruptHandler();
const std::atomic<bool>& interrupted();

// Writes a whole text file, or nothing of it. kIo with the name; kUsage when it exists and may not be replaced.
Status WriteTextFile(const std::string& path, const std::string& text, Overwrite overwrite = Overwrite::kYes);

}  // namespace frugal
