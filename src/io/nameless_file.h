// A temporary file without a name: nothing is left of it when the process ends, however that happens.
#pragma once

#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

// Open for reading and writing on the file system of `folder`. kIo names the folder.
Result<UniqueFd> OpenNamelessFile(const std::string& folder);

}  // namespace frugal
