// A model file that is there for as long as this is.
#pragma once

#include <unistd.h>

#include <string>
#include <utility>

namespace frugal {

class TemporaryModel {
 public:
  explicit TemporaryModel(std::string path) : path_(std::move(path)) {}
  ~TemporaryModel() { unlink(path_.c_str()); }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace frugal
