// What a flash device can do, as measured by device_probe.h, and what follows from it for reads. Plain data:
// cli keeps it as JSON, keyed by DeviceIdOf.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/tensor/dtype.h"

namespace frugal {

// What a thread gets through of weights of a type while the other threads do the same and memory is no limit, bytes a second.
struct ProductSpeed {
  DType dtype = DType::kF32;
  double matrix = 0;  // of a matrix in memory with a vector
  double rows = 0;    // of gathered rows with a vector
  double sum = 0;     // of a weighted sum of rows
};

struct DeviceProfile {
  // Random reads of read_bytes with queue_depth of them in flight.
  struct Point {
    uint32_t read_bytes = 0;
    uint32_t queue_depth = 0;
    double iops = 0;
    double bytes_per_second = 0;
  };

  double sequential_bytes_per_second = 0;  // of large reads, several at once; no less than that of the largest random ones
  // What the machine's threads read from RAM together, measured along with the device; 0: not measured.
  double memory_bytes_per_second = 0;
  // What a random read of 16 KiB or the nearest size takes of the threads' time together, the system's share included; 0: not measured.
  double cpu_seconds_per_read = 0;
  std::vector<Point> random;
  std::vector<ProductSpeed> products;  // measured along with the device; empty: not measured
  std::string device_name;  // "Samsung SSD 980", or the kernel's name of it
  std::string device_id;    // DeviceIdOf
  std::string backend;      // of the measurement: "io_uring", "pread"
  std::string
      direct_note;  // why it was buffered (then it is the page cache that was measured); empty when direct
  uint64_t file_bytes = 0;  // of the file that was read
  bool verified = false;    // the bytes were compared with what had been written
  uint64_t measured_at_unix = 0;
};

// Time for num_reads random reads of bytes_per_read, at the queue depth that is best for that size: seconds
// per read are interpolated between the measured sizes (logarithms of both), the smallest size's hold below
// it, and the time is never less than num_reads * bytes_per_read at the best bandwidth. Infinite when nothing
// was measured.
double ExpectedReadSeconds(const DeviceProfile& profile, uint64_t num_reads, uint64_t bytes_per_read);

// The longest gap between two wanted extents that costs at most half of a read of its own to read over: gap / bandwidth <= 0.5 / IOPS. Where it
// costs as much, it takes memory and processor for nothing, and others wait for it (docs/decisions/0017-huge-pages-for-reads.md). 0 when
// nothing was measured.
uint64_t GapWorthReading(const DeviceProfile& profile);

// The same device where every rate of many reads at once is `factor` times as high; how long one alone takes is as it was.
DeviceProfile ProfileAtSpeed(const DeviceProfile& profile, double factor);

struct DeviceIdentity {
  std::string name;  // model, or the kernel's name; "tmpfs" and the like have only a number
  std::string
      id;  // a cache key: device number, model, serial number and file system id, as far as they are known
};

// Of the file system that holds `path`. kIo when there is no such path.
Result<DeviceIdentity> IdentifyDevice(const std::string& path);
Result<std::string> DeviceIdOf(const std::string& path);

}  // namespace frugal
