// Errors inside the library: thrown here, turned into Status by Guard at the public functions.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "scclip/status.hpp"
#include "words.hpp"

namespace scclip {

/// Code and field are those of the Python runtime's errors (tests/data/refusals.json); the words are this library's.
class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message, std::string field = "")
        : std::runtime_error(message), code(code), field(std::move(field)) {}
    const ErrorCode code;
    const std::string field;
};

/// A short name for each kind.
[[noreturn]] inline void ThrowBundle(const std::string& m, const std::string& field = "") {
    throw Error(ErrorCode::kBundle, m, field);
}
[[noreturn]] inline void ThrowImage(const std::string& m, const std::string& field = "image") {
    throw Error(ErrorCode::kImage, m, field);
}
[[noreturn]] inline void ThrowVocabulary(const std::string& m, const std::string& field = "") {
    throw Error(ErrorCode::kVocabulary, m, field);
}
[[noreturn]] inline void ThrowBackend(const std::string& m, const std::string& field = "") {
    throw Error(ErrorCode::kBackend, m, field);
}
[[noreturn]] inline void ThrowOption(const std::string& field, const std::string& m) {
    throw Error(ErrorCode::kOption, field + " " + m, field);
}

/// The Status of the exception that is being handled. Words from files and libraries lose their control characters.
inline Status CurrentStatus() {
    try {
        throw;
    } catch (const Error& error) {
        return {error.code, Printable(error.what()), error.field};
    } catch (const std::bad_alloc&) {
        return {ErrorCode::kInternal, "out of memory"};
    } catch (const std::exception& error) {
        return {ErrorCode::kInternal, Printable(error.what())};
    } catch (...) {
        return {ErrorCode::kInternal, "an error of unknown kind"};
    }
}

}  // namespace scclip
