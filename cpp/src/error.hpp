// Errors inside the library: thrown here, turned into Status by Guard at the public functions.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "scclip/status.hpp"

namespace scclip {

class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code(code) {}
    const ErrorCode code;
};

/// A short name for each kind, so that a refusal reads like Python's.
[[noreturn]] inline void ThrowBundle(const std::string& m) { throw Error(ErrorCode::kBundle, m); }
[[noreturn]] inline void ThrowImage(const std::string& m) { throw Error(ErrorCode::kImage, m); }
[[noreturn]] inline void ThrowVocabulary(const std::string& m) { throw Error(ErrorCode::kVocabulary, m); }
[[noreturn]] inline void ThrowBackend(const std::string& m) { throw Error(ErrorCode::kBackend, m); }
[[noreturn]] inline void ThrowOption(const std::string& m) { throw Error(ErrorCode::kOption, m); }

/// The Status of the exception that is being handled.
inline Status CurrentStatus() {
    try {
        throw;
    } catch (const Error& error) {
        return {error.code, error.what()};
    } catch (const std::bad_alloc&) {
        return {ErrorCode::kInternal, "out of memory"};
    } catch (const std::exception& error) {
        return {ErrorCode::kInternal, error.what()};
    } catch (...) {
        return {ErrorCode::kInternal, "an error of unknown kind"};
    }
}

}  // namespace scclip
