"""
The record of commands and results that outlives the process of the relay.

`durable` is the record, `store` its file, `writer` the thread that writes to it, `index` what is known without it, and
`upkeep` removes what is old; `salvage` is for damaged files, `report` for people.  `memory` is a record without a file.
"""
