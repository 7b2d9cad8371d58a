#include "vocabulary/embedding.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "vocabulary/templates.hpp"

namespace scclip {
namespace {

constexpr std::size_t kBatch = 64;           // prompts encoded at once, as in Python
constexpr std::size_t kLongestName = 1000;   // bytes: more is no name, and is not worth tokenising
constexpr std::size_t kGroupPrompts = 1024;  // sorted by length together

template <typename Number>
double Norm(const Number* values, std::size_t count) {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    return std::sqrt(sum);
}

struct Prompt {
    std::size_t query = 0;
    std::vector<std::int64_t> tokens;
};

void AppendPrompts(const std::string& name, std::size_t query, const TextModel& model,
                   const std::vector<std::string>& patterns, std::vector<Prompt>* prompts) {
    if (name.size() > kLongestName) {
        ThrowVocabulary("the class name " + Quote(name) + " has " + std::to_string(name.size()) + " bytes: shorten it",
                        "classes");
    }
    if (!name.empty() && model.tokenizer.Encode(name).size() <= 2) {
        ThrowVocabulary("the class name " + Quote(name) + " has nothing that CLIP's tokenizer knows", "classes");
    }
    for (const std::string& pattern : patterns) {
        prompts->push_back({query, model.tokenizer.Encode(Filled(pattern, name))});
        if (prompts->back().tokens.size() <= model.context_length) continue;
        ThrowVocabulary(
            "the class name " + Quote(name) + " is too long: " + std::to_string(prompts->back().tokens.size()) +
                " tokens in a prompt; the model takes " + std::to_string(model.context_length) + ". Shorten it",
            "classes");
    }
}

/// Add each prompt's unit embedding to its query's sum, in float64.
void AddGroup(std::vector<Prompt> prompts, const TextModel& model, std::vector<double>* sums) {
    std::stable_sort(prompts.begin(), prompts.end(),
                     [](const Prompt& a, const Prompt& b) { return a.tokens.size() < b.tokens.size(); });
    for (std::size_t first = 0; first < prompts.size(); first += kBatch) {
        const std::size_t rows = std::min(kBatch, prompts.size() - first);
        const std::size_t length = prompts[first + rows - 1].tokens.size();
        std::vector<std::int64_t> tokens(rows * length);
        for (std::size_t row = 0; row < rows; ++row) {
            const std::vector<std::int64_t>& own = prompts[first + row].tokens;
            std::copy(own.begin(), own.end(), tokens.begin() + static_cast<std::ptrdiff_t>(row * length));
        }
        const std::vector<float> vectors = model.encode(tokens, rows);
        for (std::size_t row = 0; row < rows; ++row) {
            const float* vector = vectors.data() + row * model.embed_dim;
            double* sum = sums->data() + prompts[first + row].query * model.embed_dim;
            const double norm = Norm(vector, model.embed_dim);
            for (std::size_t i = 0; i < model.embed_dim; ++i) sum[i] += static_cast<double>(vector[i]) / norm;
        }
    }
}

}  // namespace

Vocabulary EmbedClasses(const ClassNames& classes, const TextModel& model, const std::string& templates,
                        const std::optional<std::string>& background, bool alone) {
    Vocabulary vocabulary;
    vocabulary.embed_dim = model.embed_dim;
    vocabulary.templates = templates;
    vocabulary.text_model_sha256 = model.model_sha256;
    for (const std::vector<std::string>& names : classes) {
        for (const std::string& name : names) {
            vocabulary.queries.push_back(name);
            vocabulary.query_class.push_back(static_cast<std::int64_t>(vocabulary.classes.size()));
        }
        vocabulary.classes.push_back(names.front());
    }
    // A misspelt name shows before minutes of work.
    const auto named = [](const std::string& name) { return Key(name) == "background"; };
    if (background || std::any_of(vocabulary.classes.begin(), vocabulary.classes.end(), named)) {
        vocabulary.background = FindBackground(vocabulary.classes, background.value_or("background"));
    } else if (alone && vocabulary.classes.size() == 1) {
        vocabulary.classes.emplace_back("background");
        vocabulary.queries.emplace_back();
        vocabulary.query_class.push_back(1);
        vocabulary.background = 1;
    }
    const std::vector<std::string>& patterns = Templates(templates);
    std::vector<Prompt> prompts;
    for (std::size_t query = 0; query < vocabulary.queries.size(); ++query) {
        AppendPrompts(vocabulary.queries[query], query, model, patterns, &prompts);
    }
    std::vector<double> sums(vocabulary.queries.size() * model.embed_dim);
    for (std::size_t first = 0; first < prompts.size(); first += kGroupPrompts) {
        const auto begin = prompts.begin() + static_cast<std::ptrdiff_t>(first);
        const auto end = prompts.begin() + static_cast<std::ptrdiff_t>(std::min(first + kGroupPrompts, prompts.size()));
        AddGroup({begin, end}, model, &sums);
    }
    for (std::size_t query = 0; query < vocabulary.queries.size(); ++query) {
        const double* sum = sums.data() + query * model.embed_dim;
        const double norm = Norm(sum, model.embed_dim);
        if (!(norm > 0 && std::isfinite(norm))) {
            ThrowVocabulary("the text encoder returned NaN or infinity for " + Quote(vocabulary.queries[query]),
                            "text_encoder");
        }
        for (std::size_t i = 0; i < model.embed_dim; ++i) {
            vocabulary.embeddings.push_back(static_cast<float>(sum[i] / norm));
        }
    }
    return vocabulary;
}

}  // namespace scclip
