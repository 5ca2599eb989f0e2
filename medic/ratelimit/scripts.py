"""The two Lua scripts: each judges and writes in one atomic round trip.

They are the formulas of `medic.ratelimit.window` and `medic.ratelimit.gcra`, on the server's clock, so that
no two machines' clocks are compared.  An empty last argument means that clock; a number of microseconds
replaces it, so that simulated time can run through the same code.  Both set an expiry that outlives what
the key has to remember.
"""

from __future__ import annotations

from typing import Final

from medic.ratelimit.gcra import SLACK

_CLOCK = """
local now = tonumber(ARGV[#ARGV])
if now == nil then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
"""

# The log is a list, oldest first: the server keeps whole numbers in it at about ten bytes each, where a
# sorted set takes a hundred, and calls of the same moment stay separate.  The ends of a list are cheap to
# reach, so one look at the oldest mostly tells that nothing has expired; else a binary search does.
#
# ARGV: window (µs), limit, cost, clock.  Returns {allowed, remaining, reset_after (µs), retry_after (µs)}.
WINDOW_SCRIPT: Final = (
    _CLOCK
    + """
local key, window, limit, cost = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function entry(index) return tonumber(redis.call('LINDEX', key, index)) end
local count, newest = redis.call('LLEN', key), nil
if count > 0 then
  newest = entry(-1)
  if newest > now + window then
    redis.call('DEL', key)
    count, newest = 0, nil
  else
    if newest > now then now = newest end
    if entry(0) <= now - window then
      local low, high = 1, count
      while low < high do
        local middle = math.floor((low + high) / 2)
        if entry(middle) <= now - window then low = middle + 1 else high = middle end
      end
      redis.call('LTRIM', key, low, -1)
      count = count - low
    end
  end
end
if count + cost > limit then
  local retry, reset = window, 0
  if cost <= limit then retry = entry(count + cost - limit - 1) + window - now end
  if count > 0 then reset = newest + window - now end
  return {0, math.max(0, limit - count), reset, retry}
end
local at, left = string.format('%.0f', now), cost
while left > 0 do
  local chunk = {}
  for i = 1, math.min(left, 1000) do chunk[i] = at end
  redis.call('RPUSH', key, unpack(chunk))
  left = left - #chunk
end
redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(window / 1000) + 10))
return {1, limit - count - cost, window, 0}
"""
)

# ARGV: interval (µs a call), burst, owed, cost, cap (µs), clock.  `owed` calls have passed already and are
# charged in any case; then one call of `cost` is judged, if there is one.  `cap` is how far ahead of now the
# charge may push the bucket: calls that were let through by error are paid back, but not for ever.
# Returns {allowed, tat - now (µs)}.
SETTLE_SCRIPT: Final = (
    _CLOCK
    + f"local slack = {SLACK}"
    + """
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local owed, cost, cap = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
tat = math.min(tat + owed * interval, now + cap)
local allowed, moved = 0, tat + cost * interval
if moved - now - burst * interval <= slack * interval then allowed, tat = 1, moved end
if tat > now then
  redis.call('SET', KEYS[1], string.format('%.17g', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000) + 10))
end
return {allowed, string.format('%.17g', tat - now)}
"""
)
