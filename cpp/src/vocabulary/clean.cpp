#include "vocabulary/clean.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "errors.hpp"

namespace scclip {
namespace {

// The names that HTML knows without a semicolon, which a browser and Python's html.unescape decode anywhere.
constexpr const char* kOldEntities =
    " AElig AMP Aacute Acirc Agrave Aring Atilde Auml COPY Ccedil ETH Eacute Ecirc Egrave Euml GT Iacute Icirc Igrave "
    "Iuml LT Ntilde Oacute Ocirc Ograve Oslash Otilde Ouml QUOT REG THORN Uacute Ucirc Ugrave Uuml Yacute aacute acirc "
    "acute aelig agrave amp aring atilde auml brvbar ccedil cedil cent copy curren deg divide eacute ecirc egrave eth "
    "euml frac12 frac14 frac34 gt iacute icirc iexcl igrave iquest iuml laquo lt macr micro middot nbsp not ntilde "
    "oacute ocirc ograve ordf ordm oslash otilde ouml para plusmn pound quot raquo reg sect shy sup1 sup2 sup3 szlig "
    "thorn times uacute ucirc ugrave uml uuml yacute yen yuml ";

// Windows-1252's characters for the bytes from 0x80 to 0x9F; 0 where it has none.
constexpr char16_t kWindows[32] = {0x20AC, 0,      0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                   0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017D, 0,
                                   0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                   0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0,      0x017E, 0x0178};

bool IsSpace(char32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsAlnum(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

[[noreturn]] void ThrowName(const std::string& text, const std::string& problem) {
    ThrowVocabulary("the name " + Quote(text) + " " + problem, "classes");
}

/// &amp; &lt; &gt; &quot; &apos; and numbers become their characters; other entities are refused, not guessed.
std::string Unescape(const std::string& text) {
    static const std::map<std::string, const char*> known = {
        {"amp", "&"}, {"lt", "<"}, {"gt", ">"}, {"quot", "\""}, {"apos", "'"}};
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
        std::size_t end = at + 1;
        if (text[at] != '&' || end == text.size()) {
            out += text[at];
            continue;
        }
        const bool number = text[end] == '#';
        if (number) ++end;
        while (end < text.size() && IsAlnum(text[end]) && end - at < 34) ++end;
        const bool closed = end < text.size() && text[end] == ';';
        const std::string name = text.substr(at + 1, end - at - 1);
        if (number && name.size() > 1) {
            const bool hex = name[1] == 'x' || name[1] == 'X';
            char* rest = nullptr;
            const unsigned long value = std::strtoul(name.c_str() + (hex ? 2 : 1), &rest, hex ? 16 : 10);
            const bool sound = *rest == '\0' && closed && (value < 0x7F ? value >= 0x20 : value >= 0xA0) &&
                               value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF) && (value & 0xFFFE) != 0xFFFE;
            if (!sound) ThrowName(text, "holds the HTML entity &" + name + ": write the character itself");
            out += ToUtf8({static_cast<char32_t>(value)});
            at = end;
            continue;
        }
        const auto found = known.find(name);
        if (closed && found != known.end()) {
            out += found->second;
            at = end;
            continue;
        }
        bool old = false;  // one of the old names stands at the beginning
        for (std::size_t length = 2; length <= name.size(); ++length) {
            old = old || std::strstr(kOldEntities, (" " + name.substr(0, length) + " ").c_str()) != nullptr;
        }
        if ((closed && !name.empty()) || old) {
            ThrowName(text, "holds what may be an HTML entity, &" + name + ": write the character itself");
        }
        out += '&';
    }
    return out;
}

/// UTF-8 that was read byte by byte, as Latin-1 or Windows-1252.
bool LooksMisread(const CodePoints& text) {
    std::string bytes;
    for (const char32_t c : text) {
        const auto* place = std::find(std::begin(kWindows), std::end(kWindows), c);
        if (c < 0x100) {
            bytes += static_cast<char>(c);
        } else if (c < 0x10000 && place != std::end(kWindows)) {
            bytes += static_cast<char>(0x80 + (place - std::begin(kWindows)));
        } else {
            bytes += ' ';
        }
    }
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        const auto lead = static_cast<unsigned char>(bytes[at]);
        if (lead < 0xC2 || lead > 0xF4) continue;
        utf8proc_int32_t point = 0;
        const auto left = static_cast<utf8proc_ssize_t>(bytes.size() - at);
        if (utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()) + at, left, &point) > 1)
            return true;
    }
    return std::any_of(text.begin(), text.end(), [](char32_t c) { return c >= 0x80 && c < 0xA0 && c != 0x85; });
}

const char* Ligature(char32_t c) {
    static const std::map<char32_t, const char*> ligatures = {
        {0x0132, "IJ"},  {0x0133, "ij"},  {0x0149, "ʼn"}, {0x01F1, "DZ"}, {0x01F2, "Dz"}, {0x01F3, "dz"},
        {0x01C4, "DŽ"},  {0x01C5, "Dž"},  {0x01C6, "dž"}, {0x01C7, "LJ"}, {0x01C8, "Lj"}, {0x01C9, "lj"},
        {0x01CA, "NJ"},  {0x01CB, "Nj"},  {0x01CC, "nj"}, {0xFB00, "ff"}, {0xFB01, "fi"}, {0xFB02, "fl"},
        {0xFB03, "ffi"}, {0xFB04, "ffl"}, {0xFB05, "ſt"}, {0xFB06, "st"}};
    const auto found = ligatures.find(c);
    return found == ligatures.end() ? nullptr : found->second;
}

/// A normal form of text: NFC, or with `compatible` NFKC.
std::string Normalized(const std::string& text, bool compatible) {
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    utf8proc_uint8_t* made = nullptr;
    int options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    if (compatible) options |= UTF8PROC_COMPAT;
    const auto length =
        utf8proc_map(bytes, static_cast<utf8proc_ssize_t>(text.size()), &made, static_cast<utf8proc_option_t>(options));
    const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(made, std::free);
    if (length < 0) ThrowName(text, std::string("can't be used: ") + utf8proc_errmsg(length));
    return {reinterpret_cast<const char*>(made), static_cast<std::size_t>(length)};
}

bool IsDropped(char32_t c) {
    return c < 0x09 || c == 0x0B || (c >= 0x0E && c < 0x20) || c == 0x7F || (c >= 0x206A && c <= 0x206F) ||
           c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
}

/// ftfy's repairs that need no guess, in its order.
std::string Repair(const std::string& text) {
    CodePoints out;
    for (const char32_t c : FromUtf8(text)) {
        if (const char* ligature = Ligature(c)) {
            for (const char32_t part : FromUtf8(ligature)) out.push_back(part == 0x02BC ? U'\'' : part);
        } else if (c > 0xFF00 && c < 0xFFF0) {  // wide and narrow forms
            for (const char32_t part : FromUtf8(Normalized(ToUtf8({c}), true))) out.push_back(part);
        } else if (c == 0x02BC || (c >= 0x2018 && c <= 0x201B)) {
            out.push_back(U'\'');
        } else if (c >= 0x201C && c <= 0x201F) {
            out.push_back(U'"');
        } else if (c == 0x1B) {
            out.push_back(c);  // may begin a terminal's escape
        } else if (!IsDropped(c)) {
            out.push_back(c);
        }
    }
    CodePoints plain;
    for (std::size_t i = 0; i < out.size(); ++i) {
        if (out[i] != 0x1B) {
            plain.push_back(out[i]);
            continue;
        }
        std::size_t end = i + 1;
        if (end < out.size() && out[end] == U'[') {
            do ++end;
            while (end < out.size() &&
                   (out[end] == U';' || utf8proc_category(static_cast<int>(out[end])) == UTF8PROC_CATEGORY_ND));
            const bool letter = end < out.size() && out[end] < 0x80 && IsAlnum(static_cast<char>(out[end]));
            if (letter) i = end;
        }
    }
    return Normalized(ToUtf8(plain), false);
}

bool IsCased(char32_t c) {
    const auto kind = utf8proc_category(static_cast<int>(c));
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT;
}

bool IsCaseIgnorable(char32_t c) {
    const auto kind = utf8proc_category(static_cast<int>(c));
    return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME || kind == UTF8PROC_CATEGORY_CF ||
           kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_SK || c == U'\'' || c == U'.' || c == U':' ||
           c == 0xB7 || c == 0x0387 || c == 0x055F || c == 0x05F4 || c == 0x2024 || c == 0x2027 || c == 0xFE13 ||
           c == 0xFE52 || c == 0xFE55;
}

/// Whether a capital sigma ends a word: letters before it and none after.
bool EndsWord(const CodePoints& text, std::size_t at) {
    std::size_t before = at, after = at + 1;
    while (before > 0 && IsCaseIgnorable(text[before - 1])) --before;
    while (after < text.size() && IsCaseIgnorable(text[after])) ++after;
    return before > 0 && IsCased(text[before - 1]) && !(after < text.size() && IsCased(text[after]));
}

CodePoints Lower(const CodePoints& text) {
    CodePoints out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == 0x0130) {
            out.insert(out.end(), {U'i', char32_t{0x0307}});
        } else if (text[i] == 0x03A3) {
            out.push_back(EndsWord(text, i) ? 0x03C2 : 0x03C3);
        } else {
            out.push_back(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(text[i]))));
        }
    }
    return out;
}

}  // namespace

CodePoints FromUtf8(const std::string& text) {
    CodePoints points;
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    for (std::size_t at = 0; at < text.size();) {
        utf8proc_int32_t point = 0;
        const auto length = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
        if (length <= 0) ThrowVocabulary("a name is not UTF-8 text: " + Quote(text.substr(0, at)) + "…", "classes");
        points.push_back(static_cast<char32_t>(point));
        at += static_cast<std::size_t>(length);
    }
    return points;
}

std::string ToUtf8(const CodePoints& text) {
    std::string out;
    for (const char32_t c : text) {
        utf8proc_uint8_t bytes[4];
        const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
        out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(length));
    }
    return out;
}

std::string Clean(const std::string& text) {
    std::string fixed = text;
    for (std::string before; fixed != before;) {
        before = fixed;
        fixed = Unescape(fixed);
        if (LooksMisread(FromUtf8(fixed))) {
            ThrowName(text, "looks like UTF-8 that was read in another encoding: write it as UTF-8");
        }
        fixed = Repair(fixed);
    }
    CodePoints collapsed;
    bool gap = false;
    for (const char32_t c : FromUtf8(fixed)) {
        if (IsSpace(c)) {
            gap = !collapsed.empty();
            continue;
        }
        if (gap) collapsed.push_back(U' ');
        gap = false;
        collapsed.push_back(c);
    }
    return ToUtf8(Lower(collapsed));
}

std::string Key(const std::string& name) {
    try {
        return Clean(name);
    } catch (const Error&) {
        return OneLine(name, std::string::npos);
    }
}

bool IsLetter(char32_t c) {
    const auto kind = utf8proc_category(static_cast<int>(c));
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool IsDigitLike(char32_t c) {
    const auto kind = utf8proc_category(static_cast<int>(c));
    return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

}  // namespace scclip
