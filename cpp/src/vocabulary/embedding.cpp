#include "vocabulary/embedding.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "vocabulary/templates.hpp"

namespace scclip {
namespace {

constexpr std::size_t kLongestName = 1000;   // bytes: more is no name, and is not worth tokenising
constexpr std::size_t kGroupPrompts = 1024;  // sorted by length together

template <typename Number>
double Norm(const Number* values, std::size_t count) {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    return std::sqrt(sum);
}

/// A pattern, and the tokens of what stands before the name, without the end token.
struct Template {
    const std::string& pattern;
    std::vector<std::int64_t> head;
};

std::vector<Template> Heads(const std::vector<std::string>& patterns, const Tokenizer& tokenizer) {
    std::vector<Template> made;
    for (const std::string& pattern : patterns) {
        made.push_back({pattern, tokenizer.Encode(pattern.substr(0, pattern.find("{}")))});
        made.back().head.pop_back();
    }
    return made;
}

struct NamedPrompt {
    std::size_t query = 0;
    Prompt prompt;
};

void AppendPrompts(const std::string& name, std::size_t query, const TextModel& model,
                   const std::vector<Template>& templates, std::vector<NamedPrompt>* prompts) {
    if (name.size() > kLongestName) {
        ThrowVocabulary("the class name " + Quote(name) + " has " + std::to_string(name.size()) + " bytes: shorten it",
                        "classes");
    }
    if (!name.empty() && model.tokenizer.Encode(name).size() <= 2) {
        ThrowVocabulary("the class name " + Quote(name) + " has nothing that CLIP's tokenizer knows", "classes");
    }
    for (const Template& made : templates) {
        std::vector<std::int64_t> ids = model.tokenizer.Encode(Filled(made.pattern, name));
        // A name may join with what stands before it.
        const auto end = std::mismatch(ids.begin(), ids.end(), made.head.begin(), made.head.end()).first;
        const auto beginning = static_cast<std::size_t>(end - ids.begin());
        prompts->push_back({query, {std::move(ids), beginning}});
        const std::size_t count = prompts->back().prompt.ids.size();
        if (count <= model.context_length) continue;
        ThrowVocabulary("the class name " + Quote(name) + " is too long: " + std::to_string(count) +
                            " tokens in a prompt; the model takes " + std::to_string(model.context_length) +
                            ". Shorten it",
                        "classes");
    }
}

/// Add each prompt's unit embedding to its query's sum, in float64.
void AddGroup(const std::vector<NamedPrompt>& group, const TextModel& model, std::vector<double>* sums) {
    std::vector<Prompt> prompts;
    for (const NamedPrompt& named : group) prompts.push_back(named.prompt);
    const std::vector<float> vectors = model.encode(prompts);
    for (std::size_t row = 0; row < group.size(); ++row) {
        const float* vector = vectors.data() + row * model.embed_dim;
        double* sum = sums->data() + group[row].query * model.embed_dim;
        const double norm = Norm(vector, model.embed_dim);
        for (std::size_t i = 0; i < model.embed_dim; ++i) sum[i] += static_cast<double>(vector[i]) / norm;
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
    const std::vector<Template> patterns = Heads(Templates(templates), model.tokenizer);
    std::vector<NamedPrompt> prompts;
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
