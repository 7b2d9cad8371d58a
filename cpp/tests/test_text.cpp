// Class names: cleaned, cut into tokens and embedded as in Python.
#include <algorithm>
#include <cmath>

#include "backends/text.hpp"
#include "bundle/bundle.hpp"
#include "fixtures.hpp"
#include "scclip/scclip.h"
#include "scclip/segmenter.hpp"
#include "vocabulary/classes.hpp"
#include "vocabulary/clean.hpp"
#include "vocabulary/embedding.hpp"
#include "vocabulary/file.hpp"
#include "vocabulary/templates.hpp"
#include "vocabulary/tokenizer.hpp"

using namespace scclip;

TEST_CASE("token ids are Python's, or the name is refused") {
    const Tokenizer tokenizer =
        Tokenizer::Parse(ReadBytes(Fixtures()["bundle"].get<std::string>() + "/tokenizer.json"));
    std::size_t equal = 0, refused = 0;
    for (const auto& item : Fixtures()["tokens"]) {
        const std::string name = item[0];
        CAPTURE(item[0].dump());
        std::vector<std::int64_t> ids;
        const Status status = StatusOf([&] { ids = tokenizer.Encode(name); });
        if (!status) {
            CHECK(status.code() == ErrorCode::kVocabulary);
            CHECK(status.field() == "classes");
            ++refused;
            continue;
        }
        CHECK(ids == item[1].get<std::vector<std::int64_t>>());
        ++equal;
    }
    CHECK(equal > 2500);
    MESSAGE(equal << " names equal, " << refused << " refused");
}

TEST_CASE("what would be guessed is refused") {
    for (const std::string name : {"caf\u00c3\u00a9", "\u00e2\u20ac\u0153quoted", "&eacute;", "&hearts;", "this&not",
                                   "&#0;", "&#xD800;", "&#55555555;", "\xff", "a\xc3"}) {
        CAPTURE(name);
        CHECK(StatusOf([&] { Clean(name); }).code() == ErrorCode::kVocabulary);
    }
    CHECK(Clean("R&B  &amp;  caf\u0065\u0301 &#233; \ufb01 \uff21 \u201cX\u201d \u039f\u03a3 \u0130") ==
          "r&b & caf\u00e9 \u00e9 fi a \"x\" \u03bf\u03c2 i\u0307");
}

TEST_CASE("a tokenizer that is not CLIP's is refused") {
    for (const std::string text : {"", "{}", "[1]", "{\"model\": 1}", "nonsense"}) {
        CHECK(StatusOf([&] { Tokenizer::Parse(text); }).code() == ErrorCode::kBundle);
    }
    std::string json = ReadBytes(Fixtures()["bundle"].get<std::string>() + "/tokenizer.json");
    json.replace(json.find("</w>\","), 4, "</x>");
    CHECK(StatusOf([&] { Tokenizer::Parse(json); }).field() == "tokenizer.json");
}

TEST_CASE("templates are Python's") {
    for (const auto& item : Fixtures()["templates"].items()) {
        CAPTURE(item.key());
        CHECK(Templates(item.key()) == item.value().get<std::vector<std::string>>());
    }
    CHECK(Fixtures()["templates"].size() == 4);
}

TEST_CASE("lists of classes are always names") {
    CHECK(ParseClasses(" sky;grass ,  lawn,\n/etc/passwd;; ") ==
          ClassNames{{"sky"}, {"grass", "lawn"}, {"/etc/passwd"}});
    CHECK(ParseClasses("a, A , b") == ClassNames{{"a", "b"}});
    for (const std::string list : {"", " ; ", "a;b, a", "a,,b", "e\u0301;\u00e9"}) {
        CAPTURE(list);
        CHECK(StatusOf([&] { ParseClasses(list); }).field() == "classes");
    }
    CHECK(StatusOf([] { CheckedClasses({{"R&amp;B"}, {"r&b"}}); }).field() == "classes");
    CHECK(FindBackground({"\u00c4rger", "x"}, "\u00e4rger") == 0);
}

#if defined(SCCLIP_TEST_ONNXRUNTIME)
TEST_CASE("embedded names are Python's vocabulary") {
    auto opened = Segmenter::Open(Fixtures()["bundle"]);
    REQUIRE_MESSAGE(opened.ok(), opened.status().message());
    Segmenter& segmenter = *opened;
    const auto& item = Fixtures()["embedded"];
    const auto pixels = Pattern(224 * 300 * 3, 1);
    const ImageView image{pixels.data(), 224, 300, 0, PixelFormat::kRgb};
    REQUIRE(segmenter.SetVocabulary(FixturePath(item["vocabulary"])).ok());
    const auto expected = segmenter.Segment(image);
    const Status set = segmenter.SetClasses(item["classes"].get<std::string>());
    REQUIRE_MESSAGE(set.ok(), set.message());
    CHECK(segmenter.Classes() == LoadVocabulary(FixturePath(item["vocabulary"])).classes);
    SegmentOptions options;
    options.confidence = true;
    const auto found = segmenter.Segment(image, options), again = segmenter.Segment(image, options);
    REQUIRE(found.ok());
    std::size_t same = 0;
    for (std::size_t i = 0; i < found->labels.size(); ++i) same += found->labels[i] == expected->labels[i];
    CHECK(same >= found->labels.size() * 9999 / 10000);
    EmbedOptions embed;
    embed.background = "nobody";
    CHECK(segmenter.SetClasses("sky; sea", embed).field() == "background");
    embed = {};
    embed.templates = "many";
    CHECK(segmenter.SetClasses("sky; sea", embed).field() == "templates");
    CHECK(segmenter.SetClasses(std::string(20000, 'x')).field() == "classes");
    std::string words;
    for (int i = 0; i < 90; ++i) words += "word ";
    CHECK(segmenter.SetClasses(words).field() == "classes");
    CHECK(segmenter.SetClasses("\u200b").code() == ErrorCode::kOk);  // a token of bytes
    CHECK(segmenter.SetClasses("sky; sky").field() == "classes");
    embed.templates = "none";
    embed.background = "sea";
    REQUIRE(segmenter.SetClasses({{"sky"}, {"sea", "water"}}, embed).ok());
    CHECK(segmenter.Classes() == std::vector<std::string>{"sky", "sea"});
}

namespace {

/// The fixtures' class list by the bundle's text encoder in a precision.
Vocabulary EmbedIn(const std::string& precision, const std::string& classes) {
    const Bundle bundle = Bundle::Open(Fixtures()["bundle"].get<std::string>(), false);
    const Tokenizer tokenizer = Tokenizer::Parse(ReadBytes(bundle.path() + "/tokenizer.json"));
    const TextEncoderSpec& spec = bundle.manifest().text_encoder;
    const TextGraphs& graphs = bundle.manifest().TextIn(precision);
    const auto text = OpenTextEncoder(bundle, graphs, 2);
    CHECK(text->resumes() == graphs.resumed.has_value());
    const auto embed_dim = static_cast<std::size_t>(bundle.manifest().embed_dim);
    PromptEncoder encode(*text, embed_dim);
    const TextModel model{tokenizer, std::ref(encode), embed_dim, static_cast<std::size_t>(spec.context_length),
                          spec.model_sha256};
    return EmbedClasses(ParseClasses(classes), model, "imagenet", std::nullopt, false);
}

/// The least cosine of the rows of two vocabularies.
double LeastCosine(const Vocabulary& a, const Vocabulary& b) {
    double least = 1;
    for (std::size_t row = 0; row < a.queries.size(); ++row) {
        double cosine = 0;
        for (std::size_t i = row * a.embed_dim; i < (row + 1) * a.embed_dim; ++i) {
            cosine += static_cast<double>(a.embeddings[i]) * static_cast<double>(b.embeddings[i]);
        }
        least = std::min(least, cosine);
    }
    return least;
}

}  // namespace

TEST_CASE("embeddings agree with Python's") {
    const auto& item = Fixtures()["embedded"];
    const Vocabulary python = LoadVocabulary(FixturePath(item["vocabulary"]));
    const Vocabulary found = EmbedIn("fp32", item["classes"]);
    CHECK(found.queries == python.queries);
    CHECK(found.query_class == python.query_class);
    CHECK(found.background == python.background);
    REQUIRE(found.embeddings.size() == python.embeddings.size());
    float gap = 0;
    for (std::size_t i = 0; i < found.embeddings.size(); ++i) {
        gap = std::max(gap, std::abs(found.embeddings[i] - python.embeddings[i]));
    }
    CHECK(gap < 1e-6F);
}

TEST_CASE("the int8 text encoder is Python's, taken by name and kept") {
    const auto& item = Fixtures()["embedded"];
    const std::string classes = item["classes"];
    const Vocabulary python = LoadVocabulary(FixturePath(item["int8_vocabulary"]));
    const Vocabulary found = EmbedIn("int8", classes);
    REQUIRE(found.embeddings.size() == python.embeddings.size());
    const double own = LeastCosine(found, python), other = LeastCosine(found, EmbedIn("fp32", classes));
    CHECK(own > 0.9999);
    CHECK(other < own);
    OpenOptions options;
    options.text_precision = "bf16";
    const auto refused = Segmenter::Open(Fixtures()["bundle"], options);
    CHECK(refused.status().code() == ErrorCode::kBackend);
    CHECK(refused.status().field() == "text_precision");
    for (const bool keep : {true, false}) {
        options.text_precision = "int8";
        options.keep_text = keep;
        auto opened = Segmenter::Open(Fixtures()["bundle"], options);
        REQUIRE_MESSAGE(opened.ok(), opened.status().message());
        REQUIRE(opened->SetClasses("sea; land").ok());
        CHECK(opened->SetClasses("sky; sky").field() == "classes");
        REQUIRE(opened->SetClasses(classes).ok());
        const auto pixels = Pattern(224 * 300 * 3, 1);
        const ImageView image{pixels.data(), 224, 300, 0, PixelFormat::kRgb};
        const auto labels = opened->Segment(image);
        REQUIRE(opened->SetVocabulary(FixturePath(item["int8_vocabulary"])).ok());
        const auto expected = opened->Segment(image);
        REQUIRE(labels.ok());
        std::size_t same = 0;
        for (std::size_t i = 0; i < labels->labels.size(); ++i) same += labels->labels[i] == expected->labels[i];
        CHECK(same >= labels->labels.size() * 999 / 1000);
    }
}
#endif
