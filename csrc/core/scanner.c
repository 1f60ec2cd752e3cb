/* SPDX-License-Identifier: MIT */
#include "scanner.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "split.h"

#define PASS_PAUSE_NS NS_PER_S          /* between two passes over a guest */
#define YOUNG_PAUSE_NS (NS_PER_S / 2)   /* while it is new */
#define SLOW_MAX 6u                     /* it doubles so often at most */
#define SLOW_WORTH 2u                   /* up to here it is worth while under pressure */
#define MODEST_PAUSE_NS (4 * NS_PER_S)  /* longer while CPUs are busy: only what stays is shared */
#define YIELD_MIN 64u                   /* one page of so many: worth another pass soon */
#define GROWN 16u                       /* by one part of so many: like new */
#define SAVED_NS ((int64_t)NS_PER_S)    /* of CPU time not used */
#define READS_SAVED_NS ((int64_t)(NS_PER_S / 4))        /* for what was just read */
#define FULL 1024u                      /* a yield that is worth the whole budget: */
#define FULL_ONE_IN 4u                  /* one page of so many */
#define LEAST (FULL / 8)
#define MODEST 10u                      /* so little of the budget while CPUs are busy */
#define GENTLE_PERMILLE 500u            /* below that it takes half of a CPU at most */
#define IDLE_NS (100 * NS_PER_MS)
#define LOOK_NS (250 * NS_PER_MS)
#define LOOK_ROOMY_NS NS_PER_S
#define LOOK_TIGHT_NS (50 * NS_PER_MS)
#define COLD_NS (5 * NS_PER_S)

/* --- one guest ------------------------------------------------------------------- */

/* The next chunks with anything in the file, from *at; how many. */
static size_t next_chunks(const struct guest *g, uint64_t *at, uint64_t chunk[SCAN_CHUNKS])
{
	size_t n = 0;

	while (n < SCAN_CHUNKS && *at < g->pmap.chunks) {
		uint64_t data = machine_seek_data(g->memfd, *at * UVMM_CHUNK_PAGES);

		if (data >= g->max_pages) {
			*at = g->pmap.chunks;
			break;
		}
		chunk[n++] = data / UVMM_CHUNK_PAGES;
		*at = data / UVMM_CHUNK_PAGES + 1;
	}
	return n;
}

static bool breaks_mapping(const struct guest *g, uint64_t ppn)
{
	pmap_entry e = pmap_get(&g->pmap, ppn), next;

	if (pmap_is_home(e))
		return false;
	if ((ppn + 1) % UVMM_CHUNK_PAGES == 0)
		return true;
	next = pmap_get(&g->pmap, ppn + 1);
	if (pmap_is_home(next))
		return true;
	return pmap_state(e) == PAGE_SHARED && pmap_state(next) == PAGE_SHARED &&
	       pmap_handle(next) != pmap_handle(e) + 1;
}

/* What sharing costs the guest, counted anew: a mapping for each run, and one for what
 * comes between it and the next. */
static void count_mappings(struct guest *g)
{
	uint64_t n = 0, chunk, ppn;

	for (chunk = 0; chunk < g->pmap.chunks; chunk++) {
		if (!pmap_chunk_away(&g->pmap, chunk))
			continue;
		for (ppn = chunk * UVMM_CHUNK_PAGES; ppn < (chunk + 1) * UVMM_CHUNK_PAGES; ppn++)
			n += 2 * breaks_mapping(g, ppn);
	}
	atomic_store(&g->sharing.mappings, n);
}

static void begin_pass(struct guest *g)
{
	g->sharing.pass.file_pages = machine_file_pages(g->memfd);
	g->sharing.pass.splits = atomic_load(&g->sharing.splits);
}

static void end_pass(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	struct guest_pass *p = &g->sharing.pass;
	uint64_t splits = atomic_load(&g->sharing.splits) - p->splits;
	/* What was written again soon would better have been left alone. */
	uint64_t kept = p->found > splits ? p->found - splits : 0;

	if (kept * YIELD_MIN >= p->scanned && kept)
		p->slow = 0;
	else if (p->passes > 1 && p->slow < SLOW_MAX)
		p->slow++;
	p->passes++;
	atomic_store(&g->sharing.worth, p->slow < SLOW_WORTH && atomic_load(&g->sharing.merged) ?
		     SHARE_WORTH_IT : SHARE_NOT_WORTH_IT);
	p->chunk = p->scanned = p->found = 0;
	p->due_ns = now_ns + (p->passes < SCAN_YOUNG_PASSES ? YOUNG_PAUSE_NS :
							      PASS_PAUSE_NS << p->slow);
	count_mappings(g);
	atomic_fetch_add(&e->sharing.passes, 1);
}

/* What a part of a pass found moves the budget. A new guest is worth all of it. */
static void weigh(struct scanner *s, const struct guest_pass *p, const struct scan_result *r)
{
	uint64_t now;

	if (p->passes < SCAN_YOUNG_PASSES) {
		s->worth = FULL;
	} else if (r->scanned) {
		now = (r->shared + r->zero) * FULL * FULL_ONE_IN / r->scanned;
		now = now < LEAST ? LEAST : now < FULL ? now : FULL;
		s->worth = (uint32_t)((7 * s->worth + now) / 8);
	}
}

/* It is being filled at this moment, most likely. */
static bool is_growing(const struct guest *g)
{
	const struct guest_pass *p = &g->sharing.pass;

	return p->passes < SCAN_YOUNG_PASSES || machine_file_pages(g->memfd) > p->file_pages;
}

/* Those that are full alone: where a page of a chunk is shared, the next first touch in it
 * has to ask the daemon. */
static size_t only_full(const struct guest *g, uint64_t *chunk, size_t n)
{
	size_t i, kept = 0;

	for (i = 0; i < n; i++) {
		uint64_t lo = chunk[i] * UVMM_CHUNK_PAGES;

		if (machine_range_pages(g->memfd, lo, lo + UVMM_CHUNK_PAGES) == UVMM_CHUNK_PAGES)
			chunk[kept++] = chunk[i];
	}
	return kept;
}

/* A part of a pass. */
static void scan_part(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	struct guest_pass *p = &g->sharing.pass;
	struct scan_result r = { 0 };
	uint64_t chunk[SCAN_CHUNKS];
	size_t n;

	if (!p->chunk)
		begin_pass(g);
	n = next_chunks(g, &p->chunk, chunk);
	if (is_growing(g))
		n = only_full(g, chunk, n);
	scan_chunks(e, g, chunk, n, false, e->scanner.buffer, &r);
	p->scanned += r.scanned;
	p->found += r.shared + r.zero;
	weigh(&e->scanner, p, &r);
	if (p->chunk >= g->pmap.chunks)
		end_pass(e, g, now_ns);
}

static bool is_due(const struct scanner *s, struct guest *g, uint64_t now_ns)
{
	struct guest_pass *p = &g->sharing.pass;

	if (!g->group || share_is_deaf(g))
		return false;
	if (s->modest && !p->chunk && now_ns < p->due_ns + MODEST_PAUSE_NS)
		return false;
	if (now_ns >= p->due_ns || p->chunk)
		return true;
	if (now_ns + (PASS_PAUSE_NS << p->slow) < p->due_ns + PASS_PAUSE_NS)
		return false;
	/* A second has passed since the last one: has it grown? */
	return p->slow && machine_file_pages(g->memfd) > p->file_pages + p->file_pages / GROWN;
}

static bool is_roomy(const struct pressure *p)
{
	return atomic_load(&p->headroom) >= 2 * p->start_max;
}

/* How often: what splits is missed soon only where memory is short. */
static uint64_t look_pause_ns(const struct pressure *p)
{
	if (atomic_load(&p->is_tight))
		return LOOK_TIGHT_NS;
	return is_roomy(p) ? LOOK_ROOMY_NS : LOOK_NS;
}

/* Splits, and those that are cold. */
static void look_after(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	struct guest_pass *p = &g->sharing.pass;

	if (now_ns < p->look_ns)
		return;
	p->look_ns = now_ns + look_pause_ns(&e->pressure);
	split_look(e, g, now_ns);
	if (now_ns < p->cold_ns || share_is_deaf(g))
		return;
	p->cold_ns = now_ns + COLD_NS;
	if (atomic_load(&g->sharing.split_pages))
		split_home_cold(e, g, scan_share_buffer(e->scanner.buffer));
}

void scanner_pass(struct uvmm_engine *e, struct guest *g, struct scan_buffer *b,
		  struct scan_result *r)
{
	uint64_t chunk[SCAN_CHUNKS], at = 0;
	size_t n;

	while (atomic_load(&g->attached) && (n = next_chunks(g, &at, chunk)))
		scan_chunks(e, g, chunk, n, true, b, r);
	count_mappings(g);
}

/* --- the thread -------------------------------------------------------------------- */

static void look_after_all(struct uvmm_engine *e)
{
	uint64_t now = clock_ns();
	struct guest *g;
	size_t at = 0;

	while ((g = guest_next_entered(&e->registry, &at))) {
		if (g->group)
			look_after(e, g, now);
		guest_leave(g);
	}
}

/* New ones first, of these the one that is the least far; then whoever waits longest. */
static bool comes_before(const struct guest_pass *p, const struct guest_pass *q)
{
	if (!p->passes != !q->passes)
		return !p->passes;
	return p->passes ? p->due_ns < q->due_ns : p->scanned < q->scanned;
}

/* Scans a part of the next guest; false if none is due. */
static bool scan_next(struct uvmm_engine *e)
{
	struct guest *best = NULL, *g, *other;
	uint64_t now = clock_ns();
	size_t at = 0;

	while ((g = guest_next_entered(&e->registry, &at))) {
		other = g;
		if (is_due(&e->scanner, g, now) &&
		    (!best || comes_before(&g->sharing.pass, &best->sharing.pass))) {
			other = best;
			best = g;
		}
		if (other)
			guest_leave(other);
	}
	if (!best)
		return false;
	scan_part(e, best, now);
	guest_leave(best);
	return true;
}

/* --- what was just read ------------------------------------------------------------ */

static bool goes_on(const struct scan_read *r, const struct guest *g, uint64_t ppn,
		    uint64_t pages)
{
	return r->g == g && r->id == g->id && r->ppn + r->pages == ppn &&
	       r->pages + pages <= SCAN_RUN_PAGES;
}

void scanner_note_read(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages)
{
	struct scanner *s = &e->scanner;
	uint64_t end = ppn + pages, n;

	if (!g->group || !atomic_load(&s->cpu_permille))
		return;
	lock(&s->lock);
	for (; ppn < end; ppn += n) {
		n = end - ppn < SCAN_RUN_PAGES ? end - ppn : SCAN_RUN_PAGES;
		if (s->reads && goes_on(&s->read[s->reads - 1], g, ppn, n))
			s->read[s->reads - 1].pages += n;
		else if (s->reads < SCAN_READS_MAX)
			s->read[s->reads++] = (struct scan_read){ g, g->id, ppn, n };
	}
	if (!s->hurry)
		pthread_cond_signal(&s->wake);
	s->hurry = true;
	unlock(&s->lock);
}

static void scan_read_pages(struct uvmm_engine *e, const struct scan_read *r)
{
	struct scan_result found = { 0 };

	if (!guest_enter(r->g))
		return;
	if (r->g->id == r->id && r->g->group && !share_is_deaf(r->g))
		scan_run(e, r->g, r->ppn, r->pages, e->scanner.buffer, &found);
	guest_leave(r->g);
}

static bool is_stopped(struct scanner *s)
{
	bool stop;

	lock(&s->lock);
	stop = s->stop;
	unlock(&s->lock);
	return stop;
}

/* Those before the pages that are read meanwhile, as far as the CPU time goes that is left for
 * them; how much it took. */
static int64_t scan_reads(struct uvmm_engine *e, int64_t left_ns)
{
	struct scanner *s = &e->scanner;
	struct scan_read read[SCAN_READS_MAX];
	int64_t begun = (int64_t)clock_thread_ns();
	size_t n, i;

	if (left_ns <= 0)
		return 0;
	lock(&s->lock);
	n = s->reads;
	memcpy(read, s->read, n * sizeof(*read));
	s->reads = 0;
	unlock(&s->lock);
	for (i = 0; i < n && !atomic_load(&s->asked) && !is_stopped(s) &&
		    (int64_t)clock_thread_ns() - begun < left_ns; i++)
		scan_read_pages(e, &read[i]);
	return (int64_t)clock_thread_ns() - begun;
}

/* False: it is to stop. Ends early for what was read, if there is CPU time for that. */
static bool pause_ns(struct scanner *s, uint64_t ns, bool for_reads)
{
	uint64_t until = clock_ns() + ns;
	struct timespec t = {
		.tv_sec = (time_t)(until / NS_PER_S),
		.tv_nsec = (long)(until % NS_PER_S),
	};
	bool stop;

	lock(&s->lock);
	while (!s->stop && !(s->hurry && for_reads) && clock_ns() < until)
		pthread_cond_timedwait(&s->wake, &s->lock, &t);
	stop = s->stop;
	s->hurry = false;
	unlock(&s->lock);
	return !stop;
}

static uint64_t budget_permille(const struct scanner *s)
{
	uint64_t all = atomic_load(&s->cpu_permille);

	if (!all)
		return 0;
	return 1 + (all - 1) * s->worth / FULL / (s->modest ? MODEST : 1);
}

/* CPU time that may be used, and what of it was used, in ns. */
struct budget {
	uint64_t at_ns, answers_ns;
	int64_t credit_ns;
	int64_t reads_ns;       /* for what was just read: a budget of its own */
};

/* What was earned since it was last called, less what was used, here and by who heard
 * the agents' answers. */
static void settle(struct uvmm_engine *e, struct budget *b, uint64_t used_ns, int64_t reads_ns)
{
	uint64_t now = clock_ns(), answers = atomic_load(&e->sharing.answers_ns);
	uint64_t earned = (now - b->at_ns) * budget_permille(&e->scanner) / 1000;
	int64_t most = SAVED_NS * e->scanner.worth / FULL / (e->scanner.modest ? MODEST : 1);

	b->reads_ns += (int64_t)((now - b->at_ns) * atomic_load(&e->scanner.cpu_permille) / 1000) -
		       reads_ns;
	if (b->reads_ns > READS_SAVED_NS)
		b->reads_ns = READS_SAVED_NS;
	b->credit_ns += (int64_t)earned + reads_ns -
			(int64_t)(used_ns + answers - b->answers_ns);
	if (b->credit_ns > most)
		b->credit_ns = most;
	b->at_ns = now;
	b->answers_ns = answers;
	atomic_fetch_add(&e->sharing.cpu_ns, used_ns);
}

static uint64_t next_wait_ns(const struct scanner *s, const struct budget *b, bool found,
			     uint64_t used_ns)
{
	uint64_t permille = budget_permille(s), wait = found ? 0 : IDLE_NS;

	/* What was saved up is not used all at once: who notices is not asked that fast. */
	if (found && atomic_load(&s->cpu_permille) < GENTLE_PERMILLE)
		wait = used_ns;
	if (b->credit_ns < 0)
		wait = permille ? (uint64_t)-b->credit_ns * 1000 / permille : LOOK_NS;
	return wait < LOOK_NS ? wait : LOOK_NS;
}

static void *scanner_main(void *arg)
{
	struct uvmm_engine *e = arg;
	struct scanner *s = &e->scanner;
	struct budget b = { .at_ns = clock_ns(), .reads_ns = READS_SAVED_NS };
	int64_t reads_ns;
	uint64_t since = clock_thread_ns(), until, wait = IDLE_NS;
	bool found;

	pthread_setname_np(pthread_self(), "uvmm-scanner");
	while (pause_ns(s, wait, b.reads_ns > 0)) {
		look_after_all(e);
		s->modest = cpus_are_busy(&s->cpus, clock_ns()) && is_roomy(&e->pressure);
		reads_ns = scan_reads(e, b.reads_ns);
		found = atomic_load(&s->cpu_permille) && b.credit_ns > 0 &&
			!atomic_load(&s->asked) && scan_next(e);
		until = clock_thread_ns();
		settle(e, &b, until - since, reads_ns);
		wait = next_wait_ns(s, &b, found, until - since);
		since = until;
	}
	return NULL;
}

int scanner_start(struct uvmm_engine *e, uint32_t cpu_permille)
{
	struct scanner *s = &e->scanner;
	pthread_condattr_t attr;
	int rc;

	atomic_store(&s->cpu_permille, cpu_permille);
	s->worth = FULL;
	s->buffer = scan_buffer_new();
	if (!s->buffer)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_condattr_destroy(&attr);
	rc = -pthread_create(&s->thread, NULL, scanner_main, e);
	s->runs = !rc;
	if (rc)
		scan_buffer_free(s->buffer);
	return rc;
}

void scanner_stop(struct uvmm_engine *e)
{
	struct scanner *s = &e->scanner;

	if (!s->runs)
		return;
	lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->wake);
	unlock(&s->lock);
	pthread_join(s->thread, NULL);
	s->runs = false;
	scan_buffer_free(s->buffer);
}
