/* SPDX-License-Identifier: MIT
 *
 * kvload - a key-value store under load, in guest memory.
 *
 *   uvmm run --max 256M -- build/examples/kvload --mib 128 --operations 500000
 *
 * An index (open addressing) leads to slots of 1 KiB, as many as the MiB given
 * hold. Nine of ten operations go to a window of lately used keys that wanders
 * over all of them, the tenth anywhere, as caches are used. Every value follows
 * from its key and version; ordinary memory holds each key's version alone, so
 * every value that is read is checked in full, and at the end all of them are.
 */
#include "example.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SLOT_BYTES 1024u
#define VALUE_MIN_WORDS 8u
#define SLOT_HEAD_WORDS 3u
#define VALUE_MAX_WORDS (SLOT_BYTES / 8u - SLOT_HEAD_WORDS)
#define HOT_FRACTION 10u
/* Operations for which the window stays before it moves by a key. */
#define WINDOW_STEP 4u

struct slot {
	uint64_t key;
	uint64_t version;
	uint64_t words;
	uint64_t value[VALUE_MAX_WORDS];
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES, "slot");

struct entry {
	uint64_t key;
	uint32_t slot;          /* its number + 1; 0: the entry is empty */
	uint32_t reserved;
};

/* All in guest memory. */
struct table {
	struct entry *index;
	uint64_t mask;          /* entries - 1; a power of two */
	struct slot *slots;
	uint32_t *free;         /* a stack of slot numbers */
	uint64_t free_slots;
};

struct load {
	struct table table;
	uint64_t keys;
	uint64_t *version;      /* of each key, ordinary memory; 0: it is not there */
	uint64_t last_version;
	uint64_t state;         /* of the random numbers */
	uint64_t wrong;
	uint64_t checked_bytes;
};

static uint64_t value_words(uint64_t key, uint64_t version)
{
	return VALUE_MIN_WORDS +
	       example_mix(key ^ version << 32) % (VALUE_MAX_WORDS - VALUE_MIN_WORDS + 1);
}

static uint64_t value_word(uint64_t key, uint64_t version, uint64_t i)
{
	return example_mix(key * 0x100000001b3u ^ version << 20 ^ i);
}

/* --- the table ------------------------------------------------------------- */

static size_t table_bytes(uint64_t keys, uint64_t *entries)
{
	*entries = 1;
	while (*entries < keys + keys / 2)
		*entries *= 2;
	return *entries * sizeof(struct entry) + keys * (sizeof(struct slot) + sizeof(uint32_t));
}

static void table_init(struct table *t, uvmm_guest *g, uint64_t keys)
{
	uint64_t entries;
	char *block = example_alloc(g, table_bytes(keys, &entries));

	t->slots = (struct slot *)(void *)block;
	t->index = (struct entry *)(void *)(block + keys * sizeof(struct slot));
	t->free = (uint32_t *)(void *)(t->index + entries);
	t->mask = entries - 1;
	t->free_slots = keys;
	for (uint64_t i = 0; i < keys; i++)
		t->free[i] = (uint32_t)(keys - 1 - i);
}

static uint64_t home(const struct table *t, uint64_t key)
{
	return example_mix(key) & t->mask;
}

/* Where the key is in the index, or the empty entry where it would go. */
static uint64_t find(const struct table *t, uint64_t key)
{
	uint64_t i = home(t, key);

	while (t->index[i].slot && t->index[i].key != key)
		i = (i + 1) & t->mask;
	return i;
}

static struct slot *get(const struct table *t, uint64_t key)
{
	uint64_t i = find(t, key);

	return t->index[i].slot ? &t->slots[t->index[i].slot - 1] : NULL;
}

static void put(struct table *t, uint64_t key, uint64_t version)
{
	uint64_t i = find(t, key);

	if (!t->index[i].slot)
		t->index[i] = (struct entry){
			.key = key, .slot = t->free[--t->free_slots] + 1,
		};

	struct slot *s = &t->slots[t->index[i].slot - 1];

	s->key = key;
	s->version = version;
	s->words = value_words(key, version);
	for (uint64_t w = 0; w < s->words; w++)
		s->value[w] = value_word(key, version, w);
}

/* Entries after it move up, so that no search ends early. */
static void delete(struct table *t, uint64_t key)
{
	uint64_t hole = find(t, key);

	if (!t->index[hole].slot)
		return;
	t->free[t->free_slots++] = t->index[hole].slot - 1;
	for (uint64_t i = (hole + 1) & t->mask; t->index[i].slot; i = (i + 1) & t->mask) {
		uint64_t from_home = (i - home(t, t->index[i].key)) & t->mask;

		if (from_home >= ((i - hole) & t->mask)) {
			t->index[hole] = t->index[i];
			hole = i;
		}
	}
	t->index[hole] = (struct entry){ 0 };
}

/* --- the load -------------------------------------------------------------- */

static uint64_t below(struct load *l, uint64_t n)
{
	return example_mix(l->state++) % n;
}

static void complain(struct load *l, uint64_t key, const char *what)
{
	if (l->wrong++ < 10)
		fprintf(stderr, "kvload: key %" PRIu64 ", version %" PRIu64 ": %s\n", key,
			l->version[key], what);
}

static void check(struct load *l, uint64_t key)
{
	const struct slot *s = get(&l->table, key);
	uint64_t version = l->version[key];

	if (!s || !version) {
		if (s || version)
			complain(l, key, s ? "deleted, but there" : "lost");
		return;
	}
	l->checked_bytes += (SLOT_HEAD_WORDS + value_words(key, version)) * sizeof(uint64_t);
	if (s->key != key || s->version != version || s->words != value_words(key, version)) {
		complain(l, key, "another record in its place");
		return;
	}
	for (uint64_t w = 0; w < s->words; w++)
		if (s->value[w] != value_word(key, version, w)) {
			complain(l, key, "wrong value");
			return;
		}
}

static void store(struct load *l, uint64_t key)
{
	l->version[key] = ++l->last_version;
	put(&l->table, key, l->version[key]);
}

static void operate(struct load *l, uint64_t n)
{
	uint64_t hot = l->keys / HOT_FRACTION + 1;
	uint64_t key = below(l, 10) ? (n / WINDOW_STEP + below(l, hot)) % l->keys
				    : below(l, l->keys);
	uint64_t dice = below(l, 10);

	check(l, key);
	if (dice >= 9) {
		l->version[key] = 0;
		delete(&l->table, key);
	} else if (dice >= 6) {
		store(l, key);
	}
}

int main(int argc, char **argv)
{
	uint64_t mib = 64, operations = 200000, seed = 1;
	const struct example_option options[] = {
		{ "--mib", &mib, 1, 1u << 20 },
		{ "--operations", &operations, 0, UINT64_MAX },
		{ "--seed", &seed, 0, UINT64_MAX },
	};
	char summary[160];

	example_options(argc, argv, options, sizeof(options) / sizeof(options[0]));

	uint64_t keys = mib * EXAMPLE_MIB / SLOT_BYTES;
	struct load l = { .keys = keys, .state = example_mix(seed) };

	l.version = example_ordinary(keys, sizeof(*l.version));
	table_init(&l.table, example_attach(), keys);
	example_doing("filling");
	for (uint64_t key = 0; key < keys; key++)
		store(&l, key);
	example_doing("get, put, delete");
	for (uint64_t n = 0; n < operations; n++)
		operate(&l, n);
	example_doing("checking");
	for (uint64_t key = 0; key < keys; key++)
		check(&l, key);
	snprintf(summary, sizeof(summary), "%" PRIu64 " keys, %" PRIu64 " operations", keys,
		 operations);
	return example_finish(l.checked_bytes, l.wrong, summary);
}
