# What base, tensor and kernels need when they are compiled for another processor: the headers of this machine's packages, which are
# the same for all processors, and GoogleTest from its sources. The headers are linked into a folder of their own, since /usr/include
# itself would bring this machine's C library.
set(headers ${CMAKE_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${headers})
foreach(name fmt hwy xxhash.h)
  file(CREATE_LINK /usr/include/${name} ${headers}/${name} SYMBOLIC)
endforeach()

add_library(cross_headers INTERFACE)
target_include_directories(cross_headers SYSTEM INTERFACE ${headers})
target_compile_definitions(cross_headers INTERFACE FMT_HEADER_ONLY HWY_COMPILE_ONLY_STATIC XXH_INLINE_ALL)
foreach(name fmt::fmt PkgConfig::hwy PkgConfig::xxhash)
  add_library(${name} ALIAS cross_headers)
endforeach()

set(BUILD_GMOCK OFF CACHE BOOL "")
set(INSTALL_GTEST OFF CACHE BOOL "")
add_subdirectory(/usr/src/googletest googletest EXCLUDE_FROM_ALL)
target_compile_options(gtest PRIVATE -w)
target_compile_options(gtest_main PRIVATE -w)
