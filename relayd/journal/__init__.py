"""
The record of commands and results that outlives the process of the relay.

`durable` is the record, and `store` its files: `log`, a file of `records` that only grows, and `archive`, a database.
What a log comes to is moved there. `writer` has what is asked for written, in a thread of its own; `index` is what
is known without the disk, `known_ids` which ids are new; `upkeep` moves logs and removes what is old.  `disk` is how
the system writes, `bodies` how results are held; `salvage` is for damaged files, `journal_report` for people.  `memory`
is a record without a file.
"""
