#include "tests/program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

bool WriteText(const fs::path& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY);
  if (fd < 0) return false;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  return written;
}

// Takes a file out of the page cache, so that a cgroup is charged what it reads of it.
void ForgetCached(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

}  // namespace

MemoryCgroup::~MemoryCgroup() {
  for (int tries = 0; tries < 100 && !path_.empty() && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++tries) usleep(10'000);
}

std::optional<std::string> MemoryCgroup::Create(uint64_t limit_bytes) {
  if (geteuid() != 0) return "needs root";
  const std::string name = "frugal_test_" + std::to_string(getpid());
  const fs::path v1 = "/sys/fs/cgroup/memory";
  is_v1_ = fs::exists(v1 / "memory.limit_in_bytes");
  path_ = (is_v1_ ? v1 : fs::path("/sys/fs/cgroup")) / name;
  std::error_code error;
  fs::create_directory(path_, error);
  if (error) return "cannot create " + path_.string() + ": " + error.message();
  const std::string limit = std::to_string(limit_bytes);
  if (!WriteText(path_ / (is_v1_ ? "memory.limit_in_bytes" : "memory.max"), limit)) return "no memory controller in " + path_.string();
  if (!is_v1_) WriteText(path_ / "memory.swap.max", "0");
  return std::nullopt;
}

void MemoryCgroup::Enter() const { WriteText(path_ / "cgroup.procs", "0"); }

uint64_t MemoryCgroup::UsedBytes() const {
  std::ifstream stat(path_ / "memory.stat");
  std::string key;
  uint64_t value = 0, used = 0;
  while (stat >> key >> value) {
    if (is_v1_ ? key == "rss" : (key == "anon" || key == "kernel")) used += value;
  }
  if (is_v1_) {
    std::ifstream kernel(path_ / "memory.kmem.usage_in_bytes");
    if (kernel >> value) used += value;
  }
  return used;
}

ProgramResult RunProgram(const MemoryCgroup* cgroup, const std::vector<std::string>& arguments, const std::string& output) {
  if (cgroup != nullptr) ForgetCached(arguments[0]);
  const pid_t child = fork();
  if (child == 0) {
    if (cgroup != nullptr) cgroup->Enter();
    const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(out, 1);
    const int err = open((output + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(err, 2);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ProgramResult result;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (cgroup != nullptr) result.peak_bytes = std::max(result.peak_bytes, cgroup->UsedBytes());
    usleep(1000);
  }
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace frugal::testing
