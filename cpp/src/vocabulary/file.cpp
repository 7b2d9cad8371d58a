#include "vocabulary/file.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "bundle/json.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "scclip-vocabulary/1";
constexpr double kUnitTolerance = 1e-3;
constexpr std::uint64_t kMaxHeader = 100000000;  // as the safetensors library

[[noreturn]] void ThrowDamaged(const std::string& reason) {
    ThrowVocabulary("it is damaged or not a safetensors file (" + reason + ")", "vocabulary");
}

struct File {
    Json tensor;    // of `embeddings`
    Json metadata;  // strings
    const char* data = nullptr;
    std::uint64_t size = 0;
};

std::string CheckedMetadata(const Json& metadata) {
    if (!metadata.is_object()) ThrowDamaged("its metadata is no object");
    for (const Json& value : metadata) {
        if (!value.is_string()) ThrowDamaged("its metadata holds other than strings");
    }
    return metadata.value("format", "none");
}

/// The header: eight bytes of length, JSON, then the tensors' bytes.
File ReadFile(const std::string& bytes) {
    if (bytes.size() < 8) ThrowDamaged("it has no header");
    std::uint64_t length = 0;
    for (unsigned i = 0; i < 8; ++i)
        length |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    if (length > kMaxHeader) ThrowDamaged("its header is too large");
    if (length > bytes.size() - 8) ThrowDamaged("its header is cut off");
    Json header;
    try {
        header = ParseJson(bytes.substr(8, static_cast<std::size_t>(length)));
    } catch (const JsonError& error) {
        ThrowDamaged(error.what());
    }
    if (!header.is_object()) ThrowDamaged("its header is no object");
    File file;
    file.metadata = header.value("__metadata__", Json::object());
    header.erase("__metadata__");
    const std::string format = CheckedMetadata(file.metadata);
    if (format != kFormat) {
        ThrowVocabulary("its format is " + Quote(format) + "; this version reads " + Quote(kFormat), "format");
    }
    if (header.size() != 1 || !header.contains("embeddings")) {
        ThrowVocabulary("it must hold one tensor, 'embeddings', and no other", "embeddings");
    }
    file.tensor = header["embeddings"];
    file.data = bytes.data() + 8 + length;
    file.size = bytes.size() - 8 - length;
    return file;
}

bool IsLength(const Json& value) { return value.is_number_unsigned() && value.get<std::uint64_t>() < (1ULL << 31U); }

/// Fill in the rows; their bytes must be exactly what the shape needs and all that the file has.
void ReadEmbeddings(const File& file, Vocabulary* vocabulary) {
    const Json& tensor = file.tensor;
    if (!tensor.is_object() || !tensor.contains("dtype") || !tensor.contains("shape") ||
        !tensor.contains("data_offsets")) {
        ThrowDamaged("its tensor is incomplete");
    }
    if (tensor["dtype"] != "F32") ThrowVocabulary("its embeddings aren't float32", "embeddings");
    const Json &shape = tensor["shape"], &offsets = tensor["data_offsets"];
    if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), IsLength)) ThrowDamaged("its shape is unsound");
    std::uint64_t count = 1;
    for (const Json& length : shape) {
        count *= length.get<std::uint64_t>();
        if (count > (1ULL << 32U)) ThrowDamaged("its shape is larger than the file");
    }
    const bool whole = offsets.is_array() && offsets.size() == 2 && offsets[0] == 0 &&
                       offsets[1].is_number_unsigned() && offsets[1].get<std::uint64_t>() == file.size;
    if (!whole || count * sizeof(float) != file.size) ThrowDamaged("its shape and its size differ");
    if (shape.size() != 2 || count == 0) {
        ThrowVocabulary("unsound vocabulary: embeddings must be (queries, width), not empty; got " + shape.dump(),
                        "embeddings");
    }
    vocabulary->embed_dim = shape[1].get<std::size_t>();
    vocabulary->embeddings.resize(static_cast<std::size_t>(count));
    std::memcpy(vocabulary->embeddings.data(), file.data, static_cast<std::size_t>(file.size));
}

std::string Entry(const Json& metadata, const char* key) {
    if (!metadata.contains(key)) ThrowVocabulary("its metadata lacks " + Quote(key), key);
    return metadata[key];
}

Json JsonEntry(const Json& metadata, const char* key) {
    try {
        return ParseJson(Entry(metadata, key));
    } catch (const JsonError&) {
        ThrowVocabulary("its metadata entry " + Quote(key) + " is not JSON", key);
    }
}

std::vector<std::string> Strings(const Json& metadata, const char* key) {
    const Json values = JsonEntry(metadata, key);
    const auto is_string = [](const Json& value) { return value.is_string(); };
    if (!values.is_array() || !std::all_of(values.begin(), values.end(), is_string)) {
        ThrowVocabulary("its metadata entry " + Quote(key) + " is not a list of strings", key);
    }
    return values.get<std::vector<std::string>>();
}

void ReadMetadata(const Json& metadata, Vocabulary* vocabulary) {
    vocabulary->classes = Strings(metadata, "classes");
    vocabulary->queries = Strings(metadata, "queries");
    const Json indices = JsonEntry(metadata, "query_class");
    if (!indices.is_array() || !std::all_of(indices.begin(), indices.end(), IsLength)) {
        ThrowVocabulary("its metadata entry 'query_class' is not a list of class indices", "query_class");
    }
    vocabulary->query_class = indices.get<std::vector<std::int64_t>>();
    const Json background = JsonEntry(metadata, "background");
    if (!background.is_null() && !background.is_number_integer()) {
        ThrowVocabulary("its metadata entry 'background' is neither a class index nor null", "background");
    }
    if (!background.is_null()) vocabulary->background = background.get<std::int64_t>();
    vocabulary->templates = Entry(metadata, "templates");
    vocabulary->text_model_sha256 = Entry(metadata, "text_model_sha256");
}

[[noreturn]] void ThrowUnsound(const char* field, const std::string& problem) {
    ThrowVocabulary("unsound vocabulary: " + problem, field);
}

void CheckClasses(const Vocabulary& v) {
    const std::size_t rows = v.embeddings.size() / v.embed_dim, number = v.classes.size();
    if (v.queries.size() != rows || v.query_class.size() != rows) {
        ThrowUnsound("queries", std::to_string(rows) + " embeddings, " + std::to_string(v.queries.size()) +
                                    " queries and " + std::to_string(v.query_class.size()) + " class indices");
    }
    const std::set<std::int64_t> used(v.query_class.begin(), v.query_class.end());
    if (used.size() != number || *used.rbegin() != static_cast<std::int64_t>(number) - 1) {
        ThrowUnsound("query_class", "query_class must name each of the " + std::to_string(number) +
                                        " classes at least once and no other");
    }
    if (std::set<std::string>(v.classes.begin(), v.classes.end()).size() != number) {
        ThrowUnsound("classes", "two classes have the same name");
    }
    if (v.background && !(*v.background >= 0 && *v.background < static_cast<std::int64_t>(number))) {
        ThrowUnsound("background",
                     "background is class " + std::to_string(*v.background) + " of " + std::to_string(number));
    }
}

void CheckNorms(const Vocabulary& v) {
    for (std::size_t row = 0; row < v.queries.size(); ++row) {
        double sum = 0;
        for (std::size_t i = 0; i < v.embed_dim; ++i) {
            const double value = v.embeddings[row * v.embed_dim + i];
            sum += value * value;
        }
        if (std::abs(std::sqrt(sum) - 1) <= kUnitTolerance) continue;  // NaN is wrong, too
        ThrowUnsound("embeddings",
                     "the embedding of " + Quote(v.queries[row]) + " has length " + Number(std::sqrt(sum)) + ", not 1");
    }
}

}  // namespace

Vocabulary ParseVocabulary(const std::string& bytes) {
    const File file = ReadFile(bytes);
    Vocabulary vocabulary;
    ReadEmbeddings(file, &vocabulary);
    ReadMetadata(file.metadata, &vocabulary);
    CheckClasses(vocabulary);
    CheckNorms(vocabulary);
    return vocabulary;
}

Vocabulary LoadVocabulary(const std::string& path) {
    try {
        struct stat status{};
        if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode))
            ThrowVocabulary("there is no such file", "vocabulary");
        std::ifstream stream(path, std::ios::binary);
        std::string bytes(static_cast<std::size_t>(status.st_size), '\0');
        if (!stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) ThrowDamaged("it can't be read");
        return ParseVocabulary(bytes);
    } catch (const Error& error) {
        ThrowVocabulary(
            "can't use the vocabulary " + path + ": " + error.what() + ". Make it again with 'scclip embed'",
            error.field);
    }
}

void CheckModel(const Vocabulary& vocabulary, const std::string& text_model_sha256, std::size_t embed_dim,
                const std::string& name) {
    const std::string again = ". Make it again with 'scclip embed' and this bundle";
    if (text_model_sha256 != vocabulary.text_model_sha256) {
        ThrowVocabulary("the vocabulary " + name + " was made by text model " +
                            First(vocabulary.text_model_sha256, 12) + "…, and this bundle has " +
                            First(text_model_sha256, 12) + "…" + again,
                        "text_model_sha256");
    }
    if (embed_dim != vocabulary.embed_dim) {
        ThrowVocabulary("the vocabulary " + name + " has embeddings of width " + std::to_string(vocabulary.embed_dim) +
                            ", and this bundle's are " + std::to_string(embed_dim) + " wide" + again,
                        "embeddings");
    }
}

}  // namespace scclip
