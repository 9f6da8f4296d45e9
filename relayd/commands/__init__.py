"""
What becomes of a command: it is accepted, waits for its turn, runs, and its result is kept until it is confirmed.

`dispatcher` decides what an order is: new, one of the `duplicates`, or refused.  `scheduler` takes a new command from
step to step, and `admission` says when it is its turn; `streaming` sends its output.  `outbox` delivers its result:
`undelivered` has those that are not confirmed, a `link_sender` for each link sends them, `in_flight` matches receipts
with them, and `suspects` and `without_receipts` are for main servers that are difficult.
"""
