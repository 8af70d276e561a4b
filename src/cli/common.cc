#include "src/cli/common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>

#include "src/base/bytes.h"
#include "src/cli/pack_hint.h"
#include "src/cli/system_limits.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

// Signal handlers can reach nothing but a global.
std::atomic<bool> interrupt_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

extern "C" void OnInterrupt(int) { interrupt_flag.store(true, std::memory_order_relaxed); }

}  // namespace

void Exit::Run(const std::function<Status()>& work) {
  Status status;
  try {
    status = work();
  } catch (const std::bad_alloc&) {
    status = Error{ErrorCode::kOutOfMemory, "out of memory"};
  } catch (const std::exception& exception) {
    status = MakeError(ErrorCode::kFailed, "{}", exception.what());
  }
  if (status) return;
  fmt::print(stderr, "frugal: {}\n", status.error().message);
  code_ = static_cast<int>(status.error().code);
}

void Exit::RunAsCallback(CLI::App& sub, std::function<Status()> work) {
  sub.callback([this, &sub, work = std::move(work)] {
    Run([&]() -> Status {
      Status status = work();
      const CLI::Option* const model = sub.get_option_no_throw("--model");
      if (status || model == nullptr || status.error().code != ErrorCode::kBadModel) return status;
      Error error = std::move(status).error();
      error.message += PackHint(sub.get_name(), model->as<std::string>());
      return error;
    });
  });
}

Result<double> ParseShare(std::string_view flag, std::string_view text) {
  std::string_view number = text;
  const bool percent = number.ends_with('%');
  if (percent) number.remove_suffix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (percent) value /= 100;
  if (number.empty() || error != std::errc() || end != number.data() + number.size() ||
      !(value >= 0 && value <= 1)) {
    return MakeError(ErrorCode::kUsage, "{}: '{}' is not a share such as 50% or 0.5", flag, text);
  }
  return value;
}

Result<std::vector<int32_t>> ParseIds(std::string_view text) {
  std::vector<int32_t> ids;
  size_t at = 0;
  while (true) {
    const size_t comma = std::min(text.find(',', at), text.size());
    std::string_view item = text.substr(at, comma - at);
    while (!item.empty() && std::isspace(static_cast<unsigned char>(item.front()))) item.remove_prefix(1);
    while (!item.empty() && std::isspace(static_cast<unsigned char>(item.back()))) item.remove_suffix(1);
    int32_t id = -1;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), id);
    if (item.empty() || error != std::errc() || end != item.data() + item.size() || id < 0) {
      return MakeError(ErrorCode::kUsage, "--ids: item {} ('{}') is not a token id", ids.size() + 1, item);
    }
    ids.push_back(id);
    if (comma == text.size()) return ids;
    at = comma + 1;
  }
}

Result<uint64_t> ParseSizeFlag(std::string_view flag, std::string_view text) {
  Result<uint64_t> size = ParseSize(text);
  if (!size) return WithContext(std::move(size).error(), flag);
  if (*size == 0) return MakeError(ErrorCode::kUsage, "{}: must be above 0", flag);
  return size;
}

Error NotAChoice(std::string_view flag, std::string_view text, const std::vector<std::string_view>& names) {
  return MakeError(ErrorCode::kUsage, "{}: '{}' is not one of {}", flag, text, fmt::join(names, ", "));
}

Status CheckOverwrite(const std::string& path, bool force) {
  if (force || access(path.c_str(), F_OK) != 0) return {};
  return MakeError(ErrorCode::kUsage, "{} exists already (--force overwrites it)", path);
}

void PrintFirstLine(const Engine& engine) {
  const EnginePlan& plan = engine.plan();
  fmt::print(stderr, "{}, context of {}, --ram {}\n", engine.Describe(), plan.context,
             plan.ram_bytes == 0 ? "unbounded" : FormatSize(plan.ram_bytes));
  if (plan.context_reduced) {
    fmt::print(stderr,
               "the context was reduced to {} tokens to fit the budget (-c says how many are wanted)\n",
               plan.context);
  }
  const std::vector<std::string>& unused = engine.model().unused_tensors();
  if (!unused.empty()) {
    fmt::print(stderr, "{} tensors are not used, {} first: the model may be of another kind than its file says\n", unused.size(),
               Printable(unused.front()));
  }
  if (MayBeSwapped(plan.peak_bytes())) {
    fmt::print(stderr, "swap is on and RLIMIT_MEMLOCK is too low to lock {}: weights may be swapped out\n",
               FormatSize(plan.peak_bytes()));
  }
}

Result<std::string> ReadStandardInput(uint64_t max_bytes) {
  std::string text;
  char buffer[65536];
  while (true) {
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got < 0) {
      if (errno == EINTR && !interrupted()) continue;
      return MakeError(ErrorCode::kIo, "standard input: {}", std::strerror(errno));
    }
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > max_bytes) {
      return MakeError(ErrorCode::kUsage, "standard input: more than {}", FormatSize(max_bytes));
    }
  }
}

bool StandardInputIsPiped() { return isatty(STDIN_FILENO) == 0; }
bool StandardErrorIsTerminal() { return isatty(STDERR_FILENO) == 1; }

Status StandardOutput::Print(std::string_view text) {
  while (!text.empty() && !closed_) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EPIPE) {
      closed_ = true;
    } else if (errno != EINTR) {
      return MakeError(ErrorCode::kIo, "standard output: {}", std::strerror(errno));
    }
  }
  return {};
}

void InstallInterruptHandler() {
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  action.sa_flags =
      static_cast<int>(SA_RESETHAND);  // the second one ends the process, whatever it is stuck in
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

const std::atomic<bool>& interrupted() { return interrupt_flag; }

Status WriteTextFile(const std::string& path, const std::string& text, Overwrite overwrite) {
  FRUGAL_ASSIGN(const auto file, OutputFile::Open(path, overwrite));
  FRUGAL_TRY(file->Write(0, std::as_bytes(std::span(text)), "text"));
  return file->Commit();
}

}  // namespace frugal
