"""
Who may do what on the hub: users, passwords, sessions, API tokens, roles, limits of operators, and the audit log of
every act.

`permissions` and `limits` have the rules, `logins`, `users` and `tokens` do what they say with the store, and `audit`
records it.  Nothing here knows of HTTP, but for the text of a cookie.  See docs/hub-security.rst.
"""
