/* SPDX-License-Identifier: MIT
 *
 * locks - every lock of the data plane, in the order in which they may nest.
 *
 *   registry.lock          the table of guests; slots of struct guest
 *     guest.attach_lock    attach, detach and end of one guest
 *       guest.arm_lock     which chunks are registered for MISSING faults
 *         swap.lock        slot bitmap of the swap file
 *           guest.wait_lock, events.lock, pressure.lock, session.lock
 *                           leaves
 *     order.lock, balloon.lock, activity.lock
 *                        what a guest's agent is asked; under them session.lock
 *
 *   Between these lies no lock: a page is owned by whoever moved its pmap entry
 *   into a transient state (pmap.h), and a chunk's reclaim by whoever set its
 *   busy bit. An owner may take any lock below guest.attach_lock; nobody waits
 *   for a page while holding a lock.
 */
#ifndef LOCKS_H
#define LOCKS_H

#include <pthread.h>

static inline void lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
}

static inline void unlock(pthread_mutex_t *m)
{
	pthread_mutex_unlock(m);
}

#endif /* LOCKS_H */
