"""
The connections that are shared: which to open, use, spare and close.

Theory of operation
===================

**What it is for.** A *job* wants a channel: a session for one command, or a connection to another host through a jump
host. The pool finds it a connection that is logged in to the job's target, or opens one. It never waits, and it never
polls: each event (a job comes, a channel closes, a connection opens, fails or is lost, a timer fires) is told to the
decisions, and what these decide is done at once.

**Two halves.** `decisions` and what it uses (`assignment`, `places`, `members`, `budget`, `alarms`, `report`) know no
network and no clock: numbers in, steps out. `pool` and what it uses (`connections`, `dials`, `dialer`, `shutdown`,
`moved_names`) do the I/O; `refused_logins` says which logins may be tried. Between the two there are three kinds of
steps::

    job, event, timer -> Pool -> PoolState      tell it what happened
                         Pool <- next_step      until there is none:
                           Start(member, job)       run the job on this connection
                           Dial(member)             open this connection
                           Evict(member)            close this connection, on which nothing runs
                         Pool <- alarm          when to ask again, though nothing happens

**What it knows.** Three classes, each with the counters of what it stands for:

- A *member* is one connection, from the decision to open it until it is gone. Its life: dialling, ready, retired (it
  takes nothing new), closing (nothing runs on it any more). A ready member is *doubted* while its server does not
  answer.
- A *lane* is one target, which is a user with a credential on a host by one way: its members, and the queues of the
  jobs that wait for them.
- A *pooled host* is what all lanes to one server share: how many sessions one connection takes, how many handshakes may
  go on at a time, and whose turn it is to open a connection.

**How a job gets its place** (`assignment`). A job waits in the queue of its lane. When something has changed for a
lane, its first job goes to the ready member with the most room, again and again, until no member has room or nothing
waits. What is left makes the lane ask for another connection, and sets an alarm where time alone may help: a place that
cools down, a limit that may be raised.

**How many sessions a connection takes** is learned. A host begins with the setting. A refusal lowers the limit to what
ran at that moment; after a while it rises again by one. Servers free the place of a closed session a little late, so a
place cools down before it is used again. Refusals that this may explain lower the limit by one, and not before there
are more than a few of them among the sessions that the host gives: a host that is only busy gets as many as before. A
connection that refuses sessions again and again while it has none at all is of no use; where all are so, what waits
fails.

**How a lane gets a connection** (`places`). The first one of a lane goes alone: it learns whether the host is there and
takes the login, at the price of one attempt. More follow while more jobs wait than these will take. Handshakes are
scarce: a host has a few at a time (sshd's MaxStartups), for which its lanes take turns. Connections in all are scarce
(`budget`): for these the hosts take turns, and idle connections are closed for those who wait, the longest idle first.

**Jump hosts.** A connection to a host behind a jump host needs a connection to the jump host, and a channel on it. When
the far one is to be opened, the missing ones to all hops are counted with it: their places are *reserved*, and their
lanes come first in the queues of their hosts. So two far connections never wait for each other's places. The dialler
then submits a job to the lane of the last hop, like any other job.

**What always holds**

- A job runs on a connection of its own target, and on no other. A job whose ``exec`` may have been sent is never given
  to another connection.
- No session is started on a member that has as many as its host's limit. A lane has at most ``max_connections`` usable
  members, a host at most as many handshakes as it takes, and the pool at most ``max_total_connections`` members and
  reserved places.
- Whatever waits has something to wait for: a handshake, a running job, a connection being closed, or an alarm.

``PoolMachine`` among the tests holds these against random histories.
"""
