#include "src/io/device_probe.h"

#include <dirent.h>

#include <cmath>
#include <deque>
#include <filesystem>
#include <fstream>
#include <set>

#include "src/base/bytes.h"
#include "src/base/temp_dir_for_test.h"
#include "src/io/fault_reader.h"
#include "src/io/io_test_util.h"
#include "src/io/recording_reader.h"

namespace frugal {
namespace {

// A new folder, removed at the end; what the probe leaves in it is seen.
class TempFolder {
 public:
  ~TempFolder() { EXPECT_TRUE(directory_.empty()) << "not empty: " << directory_.path(); }
  const std::string& path() const { return directory_.path(); }

 private:
  const TempDir directory_;
};

ProbeOptions SmallOptions(const std::string& path) {
  ProbeOptions options;
  options.path = path;
  options.file_bytes = 16 * kMiB;
  options.max_seconds = 0.3;
  options.measured_at_unix = 1'700'000'000;
  return options;
}

class DeviceProbeTest : public testing::TestWithParam<IoBackend> {};
INSTANTIATE_TEST_SUITE_P(Backends, DeviceProbeTest, testing::Values(IoBackend::kUring, IoBackend::kPread),
                         [](const auto& param_info) { return std::string(BackendName(param_info.param)); });

TEST_P(DeviceProbeTest, MeasuresAndVerifiesATemporaryFileAndLeavesNothing) {
  const TempFolder folder;
  ProbeOptions options = SmallOptions(folder.path());
  options.backend = GetParam();
  options.effort = ProbeEffort::kFull;
  double last_share = 0;
  int num_calls = 0;
  const Result<DeviceProfile> profile = ProbeDevice(options, [&](double share, std::string_view what) {
    EXPECT_GE(share, last_share);
    EXPECT_LE(share, 1);
    EXPECT_FALSE(what.empty());
    last_share = share;
    ++num_calls;
  });
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_EQ(last_share, 1);
  EXPECT_GT(num_calls, 10);
  EXPECT_TRUE(profile->verified);
  EXPECT_EQ(profile->file_bytes, 16 * kMiB);
  EXPECT_EQ(profile->measured_at_unix, 1'700'000'000u);
  EXPECT_EQ(profile->backend, GetParam() == IoBackend::kUring ? "io_uring" : "pread");
  EXPECT_EQ(profile->device_id, DeviceIdOf(folder.path()).value());
  EXPECT_FALSE(profile->device_name.empty());
  EXPECT_GT(profile->sequential_bytes_per_second, 0);
  std::set<std::pair<uint32_t, uint32_t>> seen;
  for (const DeviceProfile::Point& point : profile->random) {
    EXPECT_TRUE(seen.insert({point.read_bytes, point.queue_depth}).second);
    EXPECT_LE(uint64_t{point.read_bytes} * point.queue_depth, options.buffer_bytes);
    EXPECT_GT(point.iops, 0);
    EXPECT_NEAR(point.bytes_per_second, point.iops * point.read_bytes, 1);
  }
  EXPECT_TRUE(seen.contains({4096, 64}));
  EXPECT_TRUE(seen.contains({4096, 1}));
  EXPECT_TRUE(seen.contains({4 << 20, 4}));  // 64 at once would not fit the memory
}

TEST(DeviceProbeTest, ALargeFileIsReadItselfAndNotVerified) {
  const PatternFile pattern(8 * kMiB);
  ProbeOptions options = SmallOptions(pattern.path());
  options.own_file_bytes = kMiB;
  const Result<DeviceProfile> profile = ProbeDevice(options);
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_FALSE(profile->verified);
  EXPECT_EQ(profile->file_bytes, 8 * kMiB);
  EXPECT_FALSE(profile->random.empty());
}

TEST(DeviceProbeTest, RandomReadsOfALargeFileGoToItsBeginning) {
  const TempDir folder;
  const std::string path = folder.path() + "/sparse";
  ASSERT_TRUE(std::ofstream(path));
  std::filesystem::resize_file(path, uint64_t{1} << 40);  // more than can be read one after the other
  ProbeOptions options = SmallOptions(path);
  ReadRecording recording(1 << 18);
  recording.Start();
  const Result<DeviceProfile> profile =
      ProbeDeviceThrough(MakeRecordingReader(NewReader(IoBackend::kPread, 64), recording), options, [](double, std::string_view) {});
  ASSERT_TRUE(profile) << profile.error().message;
  uint64_t end_bytes = 0;
  for (const ReadRecord& read : recording.records()) end_bytes = std::max(end_bytes, read.offset_bytes + read.size_bytes);
  EXPECT_GT(end_bytes, 512 * kMiB);  // not what little was read one after the other
  EXPECT_LT(end_bytes, 64 * kGiB);
}

// While `slow` is set it gives 4 KiB at a time, so that a large read takes a thousand.
class SlowReader final : public ExtentReader {
 public:
  SlowReader(std::unique_ptr<ExtentReader> inner, const bool& slow) : inner_(std::move(inner)), slow_(slow) {}
  size_t Submit(std::span<const ReadRequest> requests) override {
    if (!slow_ || requests.empty()) return inner_->Submit(requests);
    const iovec& whole = requests[0].destinations[0];
    ReadRequest request = requests[0];
    request.destinations = {&pieces_.emplace_back(iovec{whole.iov_base, std::min<size_t>(whole.iov_len, 4096)}), 1};
    return inner_->Submit({&request, 1});
  }
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override { return inner_->Reap(completions, mode); }
  size_t num_in_flight() const override { return inner_->num_in_flight(); }
  size_t queue_depth() const override { return inner_->queue_depth(); }
  std::string_view name() const override { return inner_->name(); }

 private:
  const std::unique_ptr<ExtentReader> inner_;
  const bool& slow_;
  std::deque<iovec> pieces_;  // they live until their completions
};

TEST(DeviceProbeTest, BlocksThatAreSlowTheFirstTimeDoNotMakeItSlowInSequence) {
  const PatternFile pattern(8 * kMiB);
  ProbeOptions options = SmallOptions(pattern.path());
  options.own_file_bytes = kMiB;
  bool slow = false;
  const Result<DeviceProfile> profile = ProbeDeviceThrough(std::make_unique<SlowReader>(NewReader(IoBackend::kPread, 64), slow), options,
                                                           [&](double, std::string_view what) { slow = what == "sequential reads"; });
  ASSERT_TRUE(profile) << profile.error().message;
  const DeviceProfile::Point& largest = profile->random.back();
  EXPECT_EQ(largest.read_bytes, kMiB);
  EXPECT_GT(largest.queue_depth, 1u);
  EXPECT_EQ(profile->sequential_bytes_per_second, largest.bytes_per_second);
}

TEST(DeviceProbeTest, BesideASmallFileATemporaryOneIsWritten) {
  const PatternFile pattern(8192);
  const Result<DeviceProfile> profile = ProbeDevice(SmallOptions(pattern.path()));
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_TRUE(profile->verified);
  EXPECT_EQ(profile->file_bytes, 16 * kMiB);
}

TEST(DeviceProbeTest, ADeviceThatReturnsOtherBytesIsAnError) {
  const TempFolder folder;
  FaultOptions faults;
  faults.flip_offset_bytes = 77;  // one bit in every block
  faults.flip_every_bytes = 512;
  ProbeOptions options = SmallOptions(folder.path());
  const Result<DeviceProfile> profile =
      ProbeDeviceThrough(std::make_unique<FaultReader>(NewReader(IoBackend::kPread, 64), faults), options,
                         [](double, std::string_view) {});
  ASSERT_FALSE(profile);
  EXPECT_EQ(profile.error().code, ErrorCode::kIo);
  EXPECT_NE(profile.error().message.find("other bytes than were written"), std::string::npos)
      << profile.error().message;
}

TEST(DeviceProbeTest, AReadErrorEndsItAndLeavesNothing) {
  const TempFolder folder;
  FaultOptions faults;
  faults.fail_read = 20;
  const Result<DeviceProfile> profile =
      ProbeDeviceThrough(std::make_unique<FaultReader>(NewReader(IoBackend::kPread, 64), faults),
                         SmallOptions(folder.path()), [](double, std::string_view) {});
  ASSERT_FALSE(profile);
  EXPECT_EQ(profile.error().code, ErrorCode::kIo);
  EXPECT_NE(profile.error().message.find("Input/output error"), std::string::npos) << profile.error().message;
}

TEST(DeviceProbeTest, D9TooLittleSpaceIsSaidBeforeAnythingIsWritten) {
  const TempFolder folder;
  ProbeOptions options = SmallOptions(folder.path());
  options.file_bytes = uint64_t{1} << 55;
  const Result<DeviceProfile> profile = ProbeDevice(options);
  ASSERT_FALSE(profile);
  EXPECT_EQ(profile.error().code, ErrorCode::kIo);
  EXPECT_NE(profile.error().message.find("free"), std::string::npos) << profile.error().message;
}

TEST(DeviceProbeTest, RefusesWhatItCannotWorkWith) {
  const TempFolder folder;
  EXPECT_EQ(ProbeDevice(SmallOptions(folder.path() + "/missing")).error().code, ErrorCode::kIo);
  EXPECT_EQ(ProbeDevice(SmallOptions("/dev/zero")).error().code, ErrorCode::kBadModel);
  ProbeOptions starved = SmallOptions(folder.path());
  starved.buffer_bytes = kMiB;
  EXPECT_EQ(ProbeDevice(starved).error().code, ErrorCode::kUsage);
}

TEST(DeviceIdTest, NamesTheDeviceNotTheFile) {
  const PatternFile a(100);
  const PatternFile b(5000);
  EXPECT_EQ(DeviceIdOf(a.path()).value(), DeviceIdOf(b.path()).value());
  EXPECT_NE(DeviceIdOf(a.path()).value(), DeviceIdOf("/proc").value());
  EXPECT_FALSE(DeviceIdOf("/missing/file"));
  EXPECT_FALSE(IdentifyDevice("/proc").value().name.empty());
}

DeviceProfile Profile() {
  DeviceProfile profile;
  profile.sequential_bytes_per_second = 2e9;
  profile.random = {{4096, 1, 10'000, 4096 * 10'000.0},
                    {4096, 64, 200'000, 4096 * 200'000.0},
                    {16384, 64, 100'000, 16384 * 100'000.0},
                    {1 << 20, 16, 1800, 1800.0 * (1 << 20)}};
  return profile;
}

TEST(DeviceProfileTest, ExpectsTheBestDepthOfAMeasuredSize) {
  EXPECT_NEAR(ExpectedReadSeconds(Profile(), 200'000, 4096), 1, 1e-9);
  EXPECT_NEAR(ExpectedReadSeconds(Profile(), 100'000, 16384), 1, 1e-9);
}

TEST(DeviceProfileTest, InterpolatesByLogarithmsBetweenSizes) {
  // 8192 is half way between 4096 and 16384 by logarithm: the geometric mean of 5 and 10 microseconds.
  EXPECT_NEAR(ExpectedReadSeconds(Profile(), 1'000'000, 8192), std::sqrt(5.0 * 10.0), 1e-6);
}

TEST(DeviceProfileTest, SmallerReadsCostAsMuchAsTheSmallestAndLargeOnesTheBandwidth) {
  EXPECT_NEAR(ExpectedReadSeconds(Profile(), 200'000, 512), 1, 1e-9);
  EXPECT_NEAR(ExpectedReadSeconds(Profile(), 1, 64 << 20), 64 / 1800.0, 1e-9);
  DeviceProfile only_sequential;
  only_sequential.sequential_bytes_per_second = 1e9;
  EXPECT_NEAR(ExpectedReadSeconds(only_sequential, 1000, 1'000'000), 1, 1e-9);
}

TEST(DeviceProfileTest, IsNeverFasterThanTheBandwidth) {
  DeviceProfile profile = Profile();
  profile.sequential_bytes_per_second = 1e9;
  profile.random = {{4096, 64, 1e6, 0}};
  EXPECT_NEAR(ExpectedReadSeconds(profile, 1'000'000, 4096), 4.096, 1e-9);
}

TEST(DeviceProfileTest, NothingCostsNothingAndTheUnknownIsInfinite) {
  EXPECT_EQ(ExpectedReadSeconds(Profile(), 0, 4096), 0);
  EXPECT_EQ(ExpectedReadSeconds(DeviceProfile{}, 0, 4096), 0);
  EXPECT_TRUE(std::isinf(ExpectedReadSeconds(DeviceProfile{}, 1, 4096)));
}

TEST(DeviceProfileTest, AGapIsWorthReadingUpToHalfOfBandwidthOverIops) {
  EXPECT_EQ(GapWorthReading(Profile()), 5'000u);  // 0.5 * 2e9 / 200'000
  EXPECT_EQ(GapWorthReading(DeviceProfile{}), 0u);
}

}  // namespace
}  // namespace frugal
