-- suspensions/names_key: what callers' names in the log are made with.
select key from caller_names
