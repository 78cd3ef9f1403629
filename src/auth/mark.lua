-- Marks tokens as used and returns for each whether it was marked already (0) or not (1).
-- KEYS: the tokens. ARGV: for how long each is remembered, in milliseconds.
local new = {}
for i, key in ipairs(KEYS) do
    new[i] = redis.call('SET', key, 1, 'NX', 'PX', ARGV[i]) and 1 or 0
end
return new
