-- Charges buckets that all replicas share, by Redis' own clock, and returns how far ahead of the rate each is afterwards, in
-- microseconds. A bucket is the time at which its charges will be paid off, and is gone once that has passed.
-- KEYS: the buckets. ARGV: for each of them how far ahead it may be and what to charge to it, in microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ahead = {}
for i, key in ipairs(KEYS) do
    local drained_at = tonumber(redis.call('GET', key) or now)
    drained_at = math.min(math.max(drained_at, now) + ARGV[2 * i], now + ARGV[2 * i - 1])
    ahead[i] = drained_at - now
    -- As a whole number: Lua would write one of this size with an exponent and lose its end.
    redis.call('SET', key, string.format('%.0f', drained_at), 'PX', math.ceil(ahead[i] / 1000))
end
return ahead
