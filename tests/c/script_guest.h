/* SPDX-License-Identifier: MIT
 *
 * script_guest - a guest process that does what its test tells it, line by line,
 * and answers each line with "ok" or with what went wrong.
 *
 *   fill FIRST PAGES SEED     write a pattern
 *   check FIRST PAGES SEED    compare it
 *   zero FIRST PAGES          compare with zeros
 *   race THREADS MS PAGES     threads rewrite and verify pages for so long
 *   syscall FIRST PAGES SEED  read(2) the pattern from a file into the pages
 *   discard|pin|unpin FIRST PAGES
 *   sigbus PAGE               an access to the page must give SIGBUS
 *   grow FIRST PAGES          touch until SIGBUS: "ok COUNT" says how many it got
 *   stats                     "ok RESIDENT SWAPPED FAULTS"
 */
#ifndef SCRIPT_GUEST_H
#define SCRIPT_GUEST_H

#define SCRIPT_LINE 256

/* The whole life of the guest: attaches, then obeys until stdin ends; returns the
 * exit status. */
int script_guest_main(void);

#endif /* SCRIPT_GUEST_H */
