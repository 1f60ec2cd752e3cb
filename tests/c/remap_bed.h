/* SPDX-License-Identifier: MIT
 *
 * remap_bed - a guest's memory and its frames as two files, and a daemon that hears of
 * discards, for tests of remap.h.
 */
#ifndef REMAP_BED_H
#define REMAP_BED_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "remap.h"

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define PAGE UVMM_PAGE_SIZE
#define WORDS (PAGE / sizeof(uint64_t))
#define PAGES 2048u
#define SMALL 512u              /* pages with other advice */
#define FRAMES 1024u
#define USUAL (PROT_READ | PROT_WRITE)
#define HOME UVMM_FRAME_HOME

extern struct bed {
	struct remap remap;
	char *base;
	int memory, frames;             /* the files */
	int rights[PAGES];
	char asked[8];                  /* d DISCARD, h HOMED: since bed_discard() */
	int refuse;                     /* what DISCARD is answered */
	bool deaf;                      /* and not heard */
	pthread_mutex_t lock;           /* the daemon's: held while it acts */
	bool framed[PAGES];             /* what it believes: mapped from a frame */
	bool awaited[PAGES];            /* discarded while framed, HOMED is yet to come */
} bed;

void bed_start(void);
void bed_stop(void);
/* Addresses for the memory. */
char *bed_room(void);
/* Maps it at base, as at first. */
void bed_map(void);

uint64_t *bed_page(uint64_t page);
/* Every word of a page has its value. */
void bed_fill(uint64_t page, uint64_t value);
bool bed_holds(uint64_t page, uint64_t value);
uint64_t bed_in_file(int file, uint64_t page);
/* What a frame holds. */
uint64_t bed_frame(uint64_t frame);

/* One run; false if it is refused. */
bool bed_remap(uint64_t page, uint64_t frame, uint64_t pages);
int bed_discard(uint64_t page, uint64_t pages);

#endif /* REMAP_BED_H */
