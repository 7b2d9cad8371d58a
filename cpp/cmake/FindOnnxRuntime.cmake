# Finds ONNX Runtime: OnnxRuntime::OnnxRuntime.
#
#   ONNXRUNTIME_INCLUDE_DIR  the folder of onnxruntime_c_api.h (API 21 or newer; Debian: libonnxruntime-dev)
#   ONNXRUNTIME_LIBRARY      libonnxruntime.so, or the versioned file of Python's wheel:
#                            site-packages/onnxruntime/capi/libonnxruntime.so.1.x.y
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h PATH_SUFFIXES onnxruntime onnxruntime/core/session)
find_library(ONNXRUNTIME_LIBRARY onnxruntime)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR)

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  set(_library ${ONNXRUNTIME_LIBRARY})
  if(NOT _library MATCHES "\\.so(\\.1)?$" AND _library MATCHES "\\.so\\.1")
    # The wheel ships the versioned file without the name that its SONAME asks for.
    set(ONNXRUNTIME_WHEEL_LIBRARY ${_library})
    set(_folder ${CMAKE_BINARY_DIR}/onnxruntime)
    file(MAKE_DIRECTORY ${_folder})
    file(CREATE_LINK ${_library} ${_folder}/libonnxruntime.so.1 SYMBOLIC)
    file(CREATE_LINK ${_library} ${_folder}/libonnxruntime.so SYMBOLIC)
    set(_library ${_folder}/libonnxruntime.so)
  endif()
  add_library(OnnxRuntime::OnnxRuntime SHARED IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION ${_library} IMPORTED_SONAME libonnxruntime.so.1)
  target_include_directories(OnnxRuntime::OnnxRuntime SYSTEM INTERFACE ${ONNXRUNTIME_INCLUDE_DIR})
endif()
