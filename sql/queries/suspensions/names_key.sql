-- suspensions/names_key: returns the key of the callers' log names.
select key from caller_names
