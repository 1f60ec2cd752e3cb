/* SPDX-License-Identifier: MIT
 *
 * script_parts - between script_guest.c and script_blocks.c. Answers are as in
 * script_guest.h; NULL is "ok".
 */
#ifndef SCRIPT_PARTS_H
#define SCRIPT_PARTS_H

#include <stdint.h>

#include "uvmm/guest.h"

#define PAGE 4096u
#define RACERS_MAX 8

extern uvmm_guest *script_guest;
extern char *script_base;

uint64_t script_mix(uint64_t x);
/* What script_fill() makes of a page; of any with script_fill_alike() it is that of page 0. */
void script_pattern(uint64_t *words, uint64_t page, uint64_t seed);
uint64_t *script_page(uint64_t page);
const char *script_count(uint64_t n);

/* Each page with contents of its own, or all alike. */
const char *script_fill(uint64_t first, uint64_t pages, uint64_t seed);
const char *script_fill_alike(uint64_t first, uint64_t pages, uint64_t seed);

enum expected { OWN, ALIKE, ZERO };
const char *script_check(uint64_t first, uint64_t pages, uint64_t seed, enum expected what);

/* Of script_blocks.c: the commands of those names. */
const char *script_alloc(uint64_t pages);
const char *script_room(void);
const char *script_keep_spare(uint64_t pages);
const char *script_ranges(const char *word, const uint64_t *number);
const char *script_churn(uint64_t threads, uint64_t ms, uint64_t kinds);

#endif /* SCRIPT_PARTS_H */
