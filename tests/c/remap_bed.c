/* SPDX-License-Identifier: MIT */
#include "remap_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bed bed = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void note(uint16_t type)
{
	size_t so_far = strlen(bed.asked);

	if (so_far + 1 < sizeof(bed.asked)) {
		bed.asked[so_far] = type == UVMM_MSG_DISCARD ? 'd' :
				    type == UVMM_MSG_HOMED   ? 'h' : '?';
		bed.asked[so_far + 1] = '\0';
	}
}

static int ask(void *arg, struct rpc_call *call, char *why)
{
	const struct uvmm_range *range = call->body;
	uint16_t type = call->type;
	uint64_t i;

	CHECK(!arg && range->pages && range->ppn + range->pages <= PAGES);
	why[0] = '\0';
	pthread_mutex_lock(&bed.lock);
	note(type);
	call->sent = !bed.deaf;
	if (type == UVMM_MSG_HOMED)
		memset(bed.awaited + range->ppn, false, range->pages);
	if (type == UVMM_MSG_DISCARD && call->sent && (!bed.refuse || bed.refuse == -EIO)) {
		for (i = range->ppn; i < range->ppn + range->pages; i++)
			bed.awaited[i] |= bed.framed[i];
		memset(bed.framed + range->ppn, false, range->pages);
		CHECK(!fallocate(bed.memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)(range->ppn * PAGE), (off_t)(range->pages * PAGE)));
	}
	pthread_mutex_unlock(&bed.lock);
	return type == UVMM_MSG_DISCARD ? bed.refuse : 0;
}

static int rights_from(void *arg, uint64_t page, uint64_t *n)
{
	uint64_t alike = 1;

	CHECK(!arg && page < PAGES && *n);
	while (alike < *n && bed.rights[page + alike] == bed.rights[page])
		alike++;
	*n = alike;
	return bed.rights[page];
}

uint64_t *bed_page(uint64_t page)
{
	return (uint64_t *)(void *)(bed.base + page * PAGE);
}

void bed_fill(uint64_t page, uint64_t value)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		bed_page(page)[i] = value;
}

bool bed_holds(uint64_t page, uint64_t value)
{
	size_t i;

	for (i = 0; i < WORDS && bed_page(page)[i] == value; i++)
		;
	return i == WORDS;
}

uint64_t bed_in_file(int file, uint64_t page)
{
	uint64_t word;

	CHECK(pread(file, &word, sizeof(word), (off_t)(page * PAGE + PAGE / 2)) == sizeof(word));
	return word;
}

uint64_t bed_frame(uint64_t frame)
{
	return 0xf00000000ull + frame;
}

static int new_file(const char *name, uint64_t pages)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)(pages * PAGE)));
	return fd;
}

char *bed_room(void)
{
	void *room = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	return room;
}

void bed_map(void)
{
	CHECK(mmap(bed.base, PAGES * PAGE, USUAL, MAP_SHARED | MAP_FIXED, bed.memory, 0) ==
	      bed.base);
	CHECK(!madvise(bed.base, PAGES * PAGE, MADV_DONTFORK));
	CHECK(!madvise(bed.base, SMALL * PAGE, MADV_NOHUGEPAGE));
}

void bed_start(void)
{
	static const struct remap_ops ops = { .ask = ask, .rights = rights_from };
	uint64_t words[WORDS], frame;
	size_t i;

	bed.base = bed_room();
	bed.memory = new_file("memory", PAGES);
	bed.frames = new_file("frames", FRAMES);
	bed_map();
	for (frame = 0; frame < FRAMES; frame++) {
		for (i = 0; i < WORDS; i++)
			words[i] = bed_frame(frame);
		CHECK(pwrite(bed.frames, words, PAGE, (off_t)(frame * PAGE)) == PAGE);
	}
	for (i = 0; i < PAGES; i++)
		bed.rights[i] = USUAL;
	remap_init(&bed.remap, bed.base, PAGES, SMALL, &ops, NULL);
	bed.asked[0] = '\0';
}

void bed_stop(void)
{
	CHECK(!munmap(bed.base, PAGES * PAGE));
	if (bed.remap.spare)
		CHECK(!munmap(bed.remap.spare, (PAGES - bed.remap.first) * PAGE));
	remap_forked(&bed.remap);
	close(bed.memory);
	close(bed.frames);
	bed.refuse = 0;
	bed.deaf = false;
	memset(bed.framed, false, sizeof(bed.framed));
	memset(bed.awaited, false, sizeof(bed.awaited));
}

bool bed_remap(uint64_t page, uint64_t frame, uint64_t pages)
{
	struct uvmm_remap m = { .runs = 1, .run = { { page, frame, pages } } };
	int fd = frame == HOME ? -1 : fcntl(bed.frames, F_DUPFD_CLOEXEC, 0);
	struct uvmm_remapped done;

	remap_serve(&bed.remap, &m, fd, &done);
	CHECK(done.done[0] <= 1 && !done.done[1]);
	if (done.done[0])
		memset(bed.framed + page, frame != HOME, pages);
	return done.done[0];
}

int bed_discard(uint64_t page, uint64_t pages)
{
	char why[UVMM_TEXT_BYTES];

	bed.asked[0] = '\0';
	return remap_discard(&bed.remap, page, pages, why);
}
