/* SPDX-License-Identifier: MIT
 *
 * script_guest - a guest process that does what its test tells it, line by line,
 * and answers each line with "ok" or with what went wrong. It is a guest by guestlib, so
 * its agent answers ATTEND and REMAP (remap.h), whatever line it is at.
 *
 *   fill FIRST PAGES SEED     write a pattern
 *   check FIRST PAGES SEED    compare it
 *   zero FIRST PAGES          compare with zeros
 *   same FIRST PAGES SEED     write one pattern to all of them
 *   alike FIRST PAGES SEED    compare with that
 *   touch FIRST PAGES STEP MS read a word of each STEP-th page, over and over for so long,
 *                             at least once
 *   race THREADS MS PAGES     threads rewrite and verify pages for so long
 *   race THREADS MS PAGES KINDS
 *                             the same, with contents of so many kinds that all pages
 *                             have in common, and discards
 *   syscall FIRST PAGES SEED  read(2) the pattern from a file into the pages
 *   discard|pin|unpin FIRST PAGES
 *   sigbus PAGE               an access to the page must give SIGBUS
 *   grow FIRST PAGES          touch until SIGBUS: "ok COUNT" says how many it got
 *   stats                     "ok RESIDENT SWAPPED FAULTS"
 *   away FIRST PAGES          "ok COUNT" says how many are mapped from frames
 *   maps                      "ok COUNT" says how many mappings guest memory is made of
 *   fork                      a child must have nothing of it
 *   alloc PAGES               "ok PAGE" says where, "ok none" that there is no room
 *   free PAGE PAGES
 *   room                      "ok FREE BALLOONED ALLOCATED"
 *   spare PAGES               takes so many, and frees them when it is asked to (on_pressure)
 *   churn THREADS MS KINDS    threads take, write, verify, discard, pin and free blocks; with
 *                             contents of so many kinds (0: each its own)
 *   inflate|deflate FIRST PAGES [FIRST PAGES]
 *                             says so to the daemon, behind the library's back: "ok COUNT",
 *                             or why not
 *   exec                      executes the same program, which attaches at the next line
 */
#ifndef SCRIPT_GUEST_H
#define SCRIPT_GUEST_H

#define SCRIPT_LINE 256

/* The whole life of the guest: attaches, then obeys until stdin ends; returns the
 * exit status. */
int script_guest_main(void);

#endif /* SCRIPT_GUEST_H */
