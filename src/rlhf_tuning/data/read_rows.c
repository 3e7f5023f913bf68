/* Reads a block of lines that are all good rows of one format and kind, and writes the canonical rows with their hashes.

   It knows nothing of Python: block.py calls it through ctypes. Whatever is out of the ordinary makes it give up on the
   whole block, which Python then reads line by line and names what is wrong. So it may only accept what that careful
   path accepts, and must give the same rows: tests and a fuzzer hold the two together.

   The input is untrusted. Reading never passes `end`, which is checked before every byte; the bytes of a text are only
   copied to `texts`, which is as long as the block and never fuller than what was read; and `put` checks every write. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MOST_TURNS 512 /* A longer conversation is left to Python. */

enum { PROMPT, FIRST, SECOND, CONTEXT, MESSAGES, CHOICE, SPEAKER, CONTENT }; /* What a field holds; as in block.py. */
enum { USER, ASSISTANT, SYSTEM };

#define BIT(what) (1u << (what))

typedef struct {
    const char *key;
    int64_t size;
    int32_t what;
    int32_t place; /* 0: in the row; 1: in a message. */
} Field;

typedef struct {
    const Field *fields;
    int64_t count;
    uint32_t required; /* What every row has, as bits. */
    uint32_t system;   /* Whether a conversation may begin with a system message. */
    uint32_t answers;  /* Whether answers are messages too. */
    const uint8_t *prefix; /* The instruction: the beginning of every text, or a whole turn. */
    int64_t prefix_size;
} Shape;

typedef struct {
    const uint8_t *start;
    size_t size;
    bool blank;
} Text; /* A canonical JSON string, with its quotation marks. */

typedef struct {
    uint32_t seen;
    int role;
    Text content;
} Turn;

typedef struct {
    uint32_t seen;
    Text texts[4]; /* PROMPT to CONTEXT */
    int choice;
    size_t turns;
    Turn turn[MOST_TURNS];
} Row;

typedef struct {
    const uint8_t *at, *end;
    uint8_t *texts;
    const Shape *shape;
    Row *row;
} Reader;

typedef struct {
    uint8_t *start;
    size_t size, capacity;
} Output;

static const struct {
    const char *name;
    size_t size;
} ROLES[] = {{"\"user\"", 6}, {"\"assistant\"", 11}, {"\"system\"", 8}};

/* --- xxHash's XXH64, for two seeds at once ------------------------------------------------------------------------- */

#define P1 0x9E3779B185EBCA87ULL
#define P2 0xC2B2AE3D27D4EB4FULL
#define P3 0x165667B19E3779F9ULL
#define P4 0x85EBCA77C2B2AE63ULL
#define P5 0x27D4EB2F165667C5ULL

static uint64_t rotate(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

static uint64_t little_endian(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int index = 0; index < count; index++)
        value |= (uint64_t)bytes[index] << (8 * index);
    return value;
}

static uint64_t mixed(uint64_t lane, uint64_t word) { return rotate(lane + word * P2, 31) * P1; }

static void hash(const uint8_t *bytes, size_t size, uint64_t digests[2]) {
    const uint8_t *end = bytes + size;
    uint64_t lanes[2][4];
    for (int seed = 0; seed < 2; seed++) {
        lanes[seed][0] = seed + P1 + P2;
        lanes[seed][1] = seed + P2;
        lanes[seed][2] = seed;
        lanes[seed][3] = seed - P1;
    }
    for (; end - bytes >= 32; bytes += 32)
        for (int lane = 0; lane < 4; lane++) {
            uint64_t word = little_endian(bytes + 8 * lane, 8);
            lanes[0][lane] = mixed(lanes[0][lane], word);
            lanes[1][lane] = mixed(lanes[1][lane], word);
        }
    for (int seed = 0; seed < 2; seed++) {
        const uint64_t *lane = lanes[seed];
        const uint8_t *rest = bytes;
        uint64_t value = seed + P5;
        if (size >= 32) {
            value = rotate(lane[0], 1) + rotate(lane[1], 7) + rotate(lane[2], 12) + rotate(lane[3], 18);
            for (int index = 0; index < 4; index++)
                value = (value ^ mixed(0, lane[index])) * P1 + P4;
        }
        value += size;
        for (; end - rest >= 8; rest += 8)
            value = rotate(value ^ mixed(0, little_endian(rest, 8)), 27) * P1 + P4;
        if (end - rest >= 4) {
            value = rotate(value ^ little_endian(rest, 4) * P1, 23) * P2 + P3;
            rest += 4;
        }
        for (; rest < end; rest++)
            value = rotate(value ^ *rest * P5, 11) * P1;
        value = (value ^ value >> 33) * P2;
        value = (value ^ value >> 29) * P3;
        digests[seed] = value ^ value >> 32;
    }
}

/* --- Reading ------------------------------------------------------------------------------------------------------- */

static bool take(Reader *reader, uint8_t byte) {
    if (reader->at >= reader->end || *reader->at != byte)
        return false;
    reader->at++;
    return true;
}

/* Pass over blanks, and then take a byte. A newline is no blank: it ends the row. */
static bool take_next(Reader *reader, uint8_t byte) {
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\r'))
        reader->at++;
    return take(reader, byte);
}

/* What Python's str.strip() takes for blank. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Read the four digits after `\u`; a number too large where there are none. */
static uint32_t read_unit(Reader *reader) {
    uint32_t unit = 0;
    if (reader->end - reader->at < 4)
        return UINT32_MAX;
    for (int index = 0; index < 4; index++) {
        uint8_t digit = *reader->at++, letter = digit | 0x20;
        if (digit >= '0' && digit <= '9')
            unit = unit << 4 | (uint32_t)(digit - '0');
        else if (letter >= 'a' && letter <= 'f')
            unit = unit << 4 | (uint32_t)(letter - 'a' + 10);
        else
            return UINT32_MAX;
    }
    return unit;
}

/* Read what an escape stands for, the backslash being taken; 0 where it is none, or one that Python shall look at. */
static uint32_t read_escape(Reader *reader) {
    static const uint8_t meant[256] = {['"'] = '"', ['\\'] = '\\', ['/'] = '/', ['b'] = '\b', ['f'] = '\f',
                                       ['n'] = '\n', ['r'] = '\r', ['t'] = '\t'};
    if (reader->at >= reader->end)
        return 0;
    uint8_t name = *reader->at++;
    if (name != 'u')
        return meant[name];
    uint32_t unit = read_unit(reader);
    if (unit > 0xFFFF || (unit >= 0xDC00 && unit <= 0xDFFF))
        return 0;
    if (unit < 0xD800 || unit > 0xDBFF)
        return unit;
    if (!take(reader, '\\') || !take(reader, 'u'))
        return 0;
    uint32_t low = read_unit(reader);
    return low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00) : 0;
}

/* Read one character of a string; 0 where it may not stand there, or where Python shall look at it. */
static uint32_t read_character(Reader *reader) {
    if (take(reader, '\\'))
        return read_escape(reader);
    if (reader->at >= reader->end || *reader->at < 0x20)
        return 0;
    uint8_t first = *reader->at;
    if (first < 0x80) {
        reader->at++;
        return first;
    }
    int more = first >= 0xC2 && first <= 0xDF ? 1 : (first & 0xF0) == 0xE0 ? 2 : first >= 0xF0 && first <= 0xF4 ? 3 : 0;
    if (!more || reader->end - reader->at <= more)
        return 0;
    uint32_t character = first & (0x3F >> more);
    for (int index = 1; index <= more; index++) {
        if ((reader->at[index] & 0xC0) != 0x80)
            return 0;
        character = character << 6 | (reader->at[index] & 0x3F);
    }
    if ((more == 2 && character < 0x800) || (more == 3 && (character < 0x10000 || character > 0x10FFFF)) ||
        (character >= 0xD800 && character <= 0xDFFF))
        return 0;
    reader->at += more + 1;
    return character;
}

/* Write a character as canonical JSON does, never longer than any way to escape it; NULL where it is a control
   character that has no short name. */
static uint8_t *write_character(uint8_t *out, uint32_t c) {
    static const char names[] = "btn?fr"; /* of 8 to 13 */
    if (c < 0x20 || c == '"' || c == '\\') {
        if (c < 8 || c == 11 || (c > 13 && c < 0x20))
            return NULL;
        *out++ = '\\';
        *out++ = c < 0x20 ? (uint8_t)names[c - 8] : (uint8_t)c;
    } else if (c < 0x80) {
        *out++ = (uint8_t)c;
    } else if (c < 0x800) {
        *out++ = (uint8_t)(0xC0 | c >> 6);
        *out++ = (uint8_t)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *out++ = (uint8_t)(0xE0 | c >> 12);
        *out++ = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (c & 0x3F));
    } else {
        *out++ = (uint8_t)(0xF0 | c >> 18);
        *out++ = (uint8_t)(0x80 | (c >> 12 & 0x3F));
        *out++ = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (c & 0x3F));
    }
    return out;
}

/* How many of 8 bytes are plain, ASCII that stands for itself, up to the first that is not. A byte that differs from
   zero by a borrow from one below can be taken for odd, but never the lowest odd one for plain. */
static int count_plain(uint64_t word) {
    const uint64_t ones = 0x0101010101010101, highs = ones << 7;
    uint64_t quotes = word ^ ones * '"', slashes = word ^ ones * '\\';
    uint64_t odd = (((word - ones * 0x20) & ~word) | ((quotes - ones) & ~quotes) | ((slashes - ones) & ~slashes) | word) & highs;
    return odd ? __builtin_ctzll(odd) / 8 : 8;
}

/* Copy plain bytes, up to the first that is not or the last 7 of the block. */
static uint8_t *copy_plain(Reader *reader, uint8_t *out, bool *blank) {
    const uint8_t *at = reader->at, *end = reader->end;
    int plain = 8;
    while (plain == 8 && end - at >= 8) {
        plain = count_plain(little_endian(at, 8));
        for (int index = 0; *blank && index < plain; index++)
            *blank = at[index] == ' ';
        memcpy(out, at, 8); /* There is room: `texts` is as long as the block. */
        at += plain;
        out += plain;
    }
    reader->at = at;
    return out;
}

/* Read a string into `texts`, in canonical form. What is written is never longer than what was read. */
static bool read_text(Reader *reader, Text *text) {
    uint8_t *out = reader->texts;
    bool blank = true;
    text->start = out;
    if (!take_next(reader, '"'))
        return false;
    *out++ = '"';
    for (;;) {
        out = copy_plain(reader, out, &blank);
        if (take(reader, '"'))
            break;
        uint32_t character = read_character(reader);
        if (!character || !(out = write_character(out, character)))
            return false;
        blank = blank && is_space(character);
    }
    *out++ = '"';
    text->size = (size_t)(out - text->start);
    text->blank = blank;
    reader->texts = out;
    return true;
}

static bool read_object(Reader *reader, int place, Turn *turn);

/* Read an array of messages, each with its speaker and its content. */
static bool read_messages(Reader *reader, Turn *turns, size_t most, size_t *count) {
    uint32_t before = reader->row->seen;
    *count = 0;
    if (!take_next(reader, '['))
        return false;
    do {
        /* Only the last message may have more than a speaker and a content: the candidates. */
        if (*count == most || reader->row->seen != before)
            return false;
        turns[*count].seen = 0;
        if (!read_object(reader, 1, &turns[*count]) || turns[*count].seen != (BIT(SPEAKER) | BIT(CONTENT)))
            return false;
        ++*count;
    } while (take_next(reader, ','));
    return take(reader, ']');
}

static bool read_answer(Reader *reader, Text *text) {
    Turn turn;
    size_t count;
    if (!reader->shape->answers)
        return read_text(reader, text);
    if (!read_messages(reader, &turn, 1, &count) || turn.role != ASSISTANT)
        return false;
    *text = turn.content;
    return true;
}

static bool read_choice(Reader *reader, int *choice) {
    *choice = take_next(reader, '1');
    return *choice || take(reader, '0');
}

static bool read_speaker(Reader *reader, int *role) {
    Text text;
    if (!read_text(reader, &text))
        return false;
    for (*role = USER; *role <= SYSTEM; ++*role)
        if (text.size == ROLES[*role].size && !memcmp(text.start, ROLES[*role].name, text.size))
            return true;
    return false;
}

/* Read an object's fields, each once. What a row has goes into `row`, what a message has into `turn`. */
static bool read_object(Reader *reader, int place, Turn *turn) {
    Row *row = reader->row;
    if (!take_next(reader, '{'))
        return false;
    do {
        const Field *field = reader->shape->fields, *last = field + reader->shape->count;
        if (!take_next(reader, '"'))
            return false;
        size_t left = (size_t)(reader->end - reader->at);
        while (field < last && !(field->place == place && (size_t)field->size < left &&
                                 !memcmp(reader->at, field->key, (size_t)field->size) && reader->at[field->size] == '"'))
            field++;
        if (field == last)
            return false;
        reader->at += field->size + 1;
        uint32_t *mask = field->what >= SPEAKER ? &turn->seen : &row->seen, bit = BIT(field->what);
        if (*mask & bit || !take_next(reader, ':'))
            return false;
        bool good = false;
        switch (field->what) {
        case PROMPT:
            good = read_text(reader, &row->texts[PROMPT]) && !row->texts[PROMPT].blank;
            break;
        case FIRST:
        case SECOND:
            good = read_answer(reader, &row->texts[field->what]) && !row->texts[field->what].blank;
            break;
        case CONTEXT:
            good = read_text(reader, &row->texts[CONTEXT]);
            break;
        case MESSAGES:
            good = read_messages(reader, row->turn, MOST_TURNS, &row->turns);
            break;
        case CHOICE:
            good = read_choice(reader, &row->choice);
            break;
        case SPEAKER:
            good = read_speaker(reader, &turn->role);
            break;
        case CONTENT:
            good = read_text(reader, &turn->content) && !turn->content.blank;
            break;
        }
        if (!good)
            return false;
        *mask |= bit;
    } while (take_next(reader, ','));
    return take(reader, '}');
}

/* Whether a conversation begins and ends with the user's words, but for a system message where one may begin it. */
static bool good_turns(const Shape *shape, const Row *row) {
    size_t first = shape->system && row->turn[0].role == SYSTEM;
    for (size_t index = first; index < row->turns; index++)
        if (row->turn[index].role == SYSTEM)
            return false;
    return first < row->turns && row->turn[first].role == USER && row->turn[row->turns - 1].role == USER;
}

/* --- Writing ------------------------------------------------------------------------------------------------------- */

static bool put(Output *out, const void *bytes, size_t size) {
    if (size > out->capacity - out->size)
        return false;
    memcpy(out->start + out->size, bytes, size);
    out->size += size;
    return true;
}

#define PUT(out, literal) put(out, literal, sizeof(literal) - 1)

static bool put_turn(Output *out, int role, Text content) {
    return PUT(out, "{\"role\": ") && put(out, ROLES[role].name, ROLES[role].size) && PUT(out, ", \"content\": ") &&
           put(out, content.start, content.size) && PUT(out, "}");
}

/* Write a conversation; `key` becomes what tells it apart, as rows.prompt_key gives it. */
static bool put_prompt(Output *out, const Shape *shape, const Row *row, Text *key) {
    static const char begin[] = "[{\"role\": \"user\", \"content\": ";
    size_t start = out->size, prefix = (size_t)shape->prefix_size;
    bool alone = true;
    if (row->seen & BIT(PROMPT)) {
        const Text *text = &row->texts[PROMPT];
        if (!PUT(out, begin) || !PUT(out, "\"") || !put(out, shape->prefix, prefix) ||
            !put(out, text->start + 1, text->size - 1) || !PUT(out, "}]"))
            return false;
    } else {
        if (!PUT(out, "["))
            return false;
        bool context = row->seen & BIT(CONTEXT) && !row->texts[CONTEXT].blank;
        if (context && (!put_turn(out, SYSTEM, row->texts[CONTEXT]) || !PUT(out, ", ")))
            return false;
        if (!(row->seen & BIT(CONTEXT)) && row->turn[0].role != SYSTEM && !put(out, shape->prefix, prefix))
            return false;
        alone = out->size == start + 1 && row->turns == 1;
        for (size_t index = 0; index < row->turns; index++)
            if ((index && !PUT(out, ", ")) || !put_turn(out, row->turn[index].role, row->turn[index].content))
                return false;
        if (!PUT(out, "]"))
            return false;
    }
    size_t before = alone ? sizeof(begin) - 1 : 0, after = alone ? 2 : 0;
    key->start = out->start + start + before;
    key->size = out->size - start - before - after;
    return true;
}

/* How many bytes of canonical JSON a blank character takes that begins here; 0 where none does. */
static size_t blank_size(const uint8_t *at, const uint8_t *end) {
    if (end - at >= 1 && *at == ' ')
        return 1;
    if (end - at >= 2 && *at == '\\' && strchr("tnfr", at[1]))
        return 2;
    if (end - at >= 2 && *at == 0xC2 && is_space(at[1]))
        return 2;
    if (end - at >= 3 && (*at & 0xF0) == 0xE0 &&
        is_space((uint32_t)(*at & 0x0F) << 12 | (uint32_t)(at[1] & 0x3F) << 6 | (at[2] & 0x3F)))
        return 3;
    return 0;
}

/* Likewise of one that ends here: a letter after an escaped backslash is none. */
static size_t last_blank_size(const uint8_t *at, const uint8_t *end) {
    size_t slashes = 0;
    while ((size_t)(end - at) > slashes + 1 && end[-2 - (ptrdiff_t)slashes] == '\\')
        slashes++;
    for (size_t size = 1; size <= 3 && size <= (size_t)(end - at); size++)
        if (blank_size(end - size, end) == size && (size != 2 || !slashes || slashes % 2))
            return size;
    return 0;
}

/* Return a text without its quotes and the blanks around it. */
static Text bare(const Text *text) {
    const uint8_t *at = text->start + 1, *end = text->start + text->size - 1;
    for (size_t size; (size = blank_size(at, end));)
        at += size;
    for (size_t size; (size = last_blank_size(at, end));)
        end -= size;
    return (Text){.start = at, .size = (size_t)(end - at)};
}

/* Say whether two texts are the same but for blanks around them. */
static bool alike(const Text *one, const Text *other) {
    Text first = bare(one), second = bare(other);
    return first.size == second.size && !memcmp(first.start, second.start, first.size);
}

static bool put_row(Output *out, const Shape *shape, const Row *row, uint64_t hashes[3][2], int64_t sizes[3]) {
    const Text *chosen = &row->texts[FIRST], *rejected = &row->texts[SECOND];
    Text key;
    if (!PUT(out, "{\"prompt\": "))
        return false;
    size_t start = out->size;
    if (!put_prompt(out, shape, row, &key))
        return false;
    memset(hashes, 0, sizeof(uint64_t) * 6);
    hash(key.start, key.size, hashes[0]);
    sizes[0] = (int64_t)(out->size - start);
    sizes[1] = sizes[2] = 0;
    if (row->seen & BIT(FIRST)) {
        if (row->choice) {
            chosen = &row->texts[SECOND];
            rejected = &row->texts[FIRST];
        }
        if (alike(chosen, rejected))
            return false;
        if (!PUT(out, ", \"chosen\": ") || !put(out, chosen->start, chosen->size) || !PUT(out, ", \"rejected\": ") ||
            !put(out, rejected->start, rejected->size))
            return false;
        hash(chosen->start, chosen->size, hashes[1]);
        hash(rejected->start, rejected->size, hashes[2]);
        sizes[1] = (int64_t)chosen->size;
        sizes[2] = (int64_t)rejected->size;
    }
    return PUT(out, "}\n");
}

/* Read a block.

   block, size      Whole lines.
   shape            What the rows are.
   texts            Room for `size` bytes.
   encoded          Room for `capacity` bytes: the canonical lines.
   ends to choices  Room for `most` rows: where each line ends; 3 hashes of 2 words; 3 sizes; the choice.

   Returns how many rows there are, or -1 where Python shall read the block. */
int64_t read_rows(const uint8_t *block, int64_t size, const Shape *shape, uint8_t *texts, uint8_t *encoded,
                  int64_t capacity, int64_t most, int64_t *ends, uint64_t (*hashes)[3][2], int64_t (*sizes)[3],
                  uint8_t *choices) {
    Row row;
    Turn none = {0}; /* A row itself has neither a speaker nor a content. */
    Output out = {encoded, 0, (size_t)capacity};
    Reader reader = {block, block + size, texts, shape, &row};
    int64_t rows = 0;
    for (; reader.at < reader.end; rows++) {
        row.seen = 0;
        row.choice = 0;
        row.turns = 0;
        reader.texts = texts;
        if (rows == most || !read_object(&reader, 0, &none) || !take_next(&reader, '\n') ||
            (row.seen & ~BIT(CONTEXT)) != shape->required || (row.seen & BIT(MESSAGES) && !good_turns(shape, &row)) ||
            !put_row(&out, shape, &row, hashes[rows], sizes[rows]))
            return -1;
        ends[rows] = (int64_t)out.size;
        choices[rows] = (uint8_t)row.choice;
    }
    return rows;
}
