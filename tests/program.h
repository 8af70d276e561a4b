// Runs the program itself, in a memory cgroup of its own where that is asked for. Needs root and a writable memory controller for that.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/support.h"

namespace frugal::testing {

// A memory cgroup (v1 or v2) of its own, removed with the object.
class MemoryCgroup {
 public:
  ~MemoryCgroup();
  // The reason why there can be none, or nothing.
  std::optional<std::string> Create(uint64_t limit_bytes);
  // Moves this process.
  void Enter() const;
  // What is charged now without file cache: anonymous memory and kernel memory.
  uint64_t UsedBytes() const;

 private:
  std::filesystem::path path_;
  bool is_v1_ = false;
};

struct ProgramResult {
  int exit_code = -1;       // 128 + signal when killed
  uint64_t peak_bytes = 0;  // of the cgroup; 0 without one
};

// Runs arguments[0] to its end, its standard output in the file `output`, its standard error in `output`.err. `cgroup` may be nullptr; one
// is charged with the program's own code too, which is read anew.
ProgramResult RunProgram(const MemoryCgroup* cgroup, const std::vector<std::string>& arguments, const std::string& output);

#ifdef FRUGAL_BINARY  // the build with sanitizers has no program
// Runs `frugal` without a cgroup, in a directory of the test's own, and gives what its last run printed.
class ProgramTest : public ::testing::Test {
 protected:
  // Its exit code.
  int Run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), FRUGAL_BINARY);
    return RunProgram(nullptr, arguments, directory_.File("out")).exit_code;
  }
  std::string Output() const { return ReadAllForTest(directory_.File("out")); }
  std::string Errors() const { return ReadAllForTest(directory_.File("out.err")); }
  nlohmann::json Json() const { return nlohmann::json::parse(Output()); }

  const TemporaryDirectory directory_;
};
#endif

}  // namespace frugal::testing
