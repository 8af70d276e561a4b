#include "src/io/nameless_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace frugal {

Result<UniqueFd> OpenNamelessFile(const std::string& folder) {
  UniqueFd fd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.valid()) return fd;
  // Not every file system has O_TMPFILE: a name that lives for one call. mkostemp replaces the last six letters.
  std::string name = folder + "/.frugal-" + std::string(6, 'X');
  fd = UniqueFd(mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) {
    return MakeError(ErrorCode::kIo, "{}: cannot make a temporary file: {}", folder, std::generic_category().message(errno));
  }
  unlink(name.c_str());
  return fd;
}

}  // namespace frugal
