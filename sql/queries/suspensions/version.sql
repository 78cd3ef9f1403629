-- suspensions/version: returns a value that changes with the list of suspended DIDs.
select version::text as version from suspensions_version
