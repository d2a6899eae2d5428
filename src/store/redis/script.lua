-- Many operations, decided in their order, in one call: what limit::decide and HeldCharge say,
-- said again for the place where the state is. A property test holds the two equal.
--
-- KEYS[1 .. B]     buckets, each once
-- KEYS[B+1 .. ]    reservations, each once; the last key counts the open ones
-- ARGV[1]          B; prefix of bucket keys; the distinct limits (see `limit` below)
-- ARGV[2]          the operations
-- ARGV[3]          the time in microseconds; absent: this server's
--
-- Returns one string: the time, then each operation's answer. Numbers are little-endian doubles,
-- all of them integers below 2^53, so that every sum is exact.

local unpack_struct, pack, floor = struct.unpack, struct.pack, math.floor
local EXACT = 9007199254740992
local MAX_SPENT = 4000000000000000
-- The longest a bucket is remembered after its last charge: a debt at a rate of nearly nothing
-- would need an expiry that Redis refuses.
local CENTURY = 3155760000000000

local now
if ARGV[3] then
  now = tonumber(ARGV[3])
else
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- Limits: 1 in flags = fixed window, 2 = charge when over.
local header = ARGV[1]
local bucket_count, prefix, limit_count, at_byte = unpack_struct('<HBc0H', header)
local window, over, numerator, denominator, period = {}, {}, {}, {}, {}
for i = 1, limit_count do
  local flags
  flags, numerator[i], denominator[i], period[i], at_byte = unpack_struct('<Bddd', header, at_byte)
  window[i] = flags % 2 == 1
  over[i] = flags >= 2
end

-- Buckets: spent, fraction and time of the state; until when the key lives; the limit it was
-- last held to; whether it has to be written.
local name, spent, fraction, at, lives, held_to, dirty = {}, {}, {}, {}, {}, {}, {}
local stored = {}
local slots

local function load(i, key, value)
  name[i] = key
  if value and #value == 32 then
    stored[i] = value
    spent[i], fraction[i], at[i], lives[i] = unpack_struct('<dddd', value)
  else
    spent[i], fraction[i], at[i], lives[i] = 0, 0, 0, 0
  end
end

if bucket_count > 0 then
  local values = redis.call('MGET', unpack(KEYS, 1, bucket_count))
  for i = 1, bucket_count do load(i, KEYS[i], values[i]) end
end

-- The bucket of a reservation, which need not be among KEYS.
local function slot_of(key)
  if not slots then
    slots = {}
    for i = 1, #name do slots[name[i]] = i end
  end
  local i = slots[key]
  if not i then
    i = #name + 1
    load(i, key, redis.call('GET', key))
    slots[key] = i
  end
  return i
end

-- (r * n + f) / d and its remainder, for products beyond 2^53; r and f are below d, d below 2^45.
local function long_division(r, n, f, d)
  local quotient, rest = 0, 0
  local unit = 562949953421312 -- 2^49
  for _ = 1, 8 do
    local digit = floor(n / unit) % 128
    rest = rest * 128 + r * digit
    local q = floor(rest / d)
    rest = rest - q * d
    quotient = quotient * 128 + q
    unit = unit / 128
  end
  rest = rest + f
  if rest >= d then return quotient + 1, rest - d end
  return quotient, rest
end

local function refill(i, l)
  held_to[i] = l
  local before = at[i]
  if window[l] then
    local start = now - now % period[l]
    if start > before then
      spent[i], fraction[i], at[i] = 0, 0, start
    end
  elseif now > before then
    at[i] = now
    local s = spent[i]
    if s > 0 then
      local n, d, f = numerator[l], denominator[l], fraction[i]
      if f >= d then f = d - 1 end
      local elapsed = now - before
      local periods = floor(elapsed / d)
      local back = periods * n
      if back < s then
        local rest = elapsed - periods * d
        local q
        local parts = rest * n + f
        if parts < EXACT then
          q = floor(parts / d)
          f = parts - q * d
        else
          q, f = long_division(rest, n, f, d)
        end
        back = back + q
      end
      if back >= s then
        spent[i], fraction[i] = 0, 0
      else
        spent[i], fraction[i] = s - back, f
      end
    end
  end
end

local function spend(i, amount)
  local s = spent[i] + amount
  if s > MAX_SPENT then s = MAX_SPENT end
  if s <= 0 then
    s = 0
    fraction[i] = 0
  end
  spent[i] = s
end

local answer = { pack('<d', now) }

local function tell(fits, i)
  local s = spent[i]
  if not fits then s = -s - 1 end
  answer[#answer + 1] = pack('<dd', s, fraction[i])
end

-- Open reservations are counted by the minute in which they expire.
local open_key = KEYS[#KEYS]
local opened = {}
local function count_open(expires, by)
  local minute = floor(expires / 60000000)
  opened[minute] = (opened[minute] or 0) + by
end

-- A reservation's value: its state, when it expires, when it was made, and the charges. States:
-- o = open, q = open but only to tell a retry (no report will come, so it is not counted),
-- s = settled, x = released, r = reported before its admission came. O and Q are o and q that a
-- retry was let in on.
local function held(key)
  local value = redis.call('GET', key)
  if value then
    local state, expires, made = unpack_struct('<c1dd', value)
    local lower = state:lower()
    if expires > now then return lower, expires, made, value, state ~= lower end
  end
  return nil
end

-- What is left of a reservation that ended, to know what comes again. For ten minutes: whatever
-- comes twice comes within seconds.
local function close(key, state, expires)
  expires = math.min(expires, now + 600000000)
  redis.call('SET', key, pack('<c1dd', state, expires, now), 'PX', floor((expires - now) / 1000) + 1)
end

local operations = ARGV[2]
local position = 1

-- Charges: slot, limit, effect (0 enforce, 1 quota, 2 record, 3 shadow; + 8 where a report changes
-- it), amount, threshold.
local slot, limit, effect, amount, threshold = {}, {}, {}, {}, {}
local spent_before, fraction_before, spent_after, fraction_after, fits = {}, {}, {}, {}, {}
local function read_charges(count)
  for c = 1, count do
    slot[c], limit[c], effect[c], amount[c], threshold[c], position =
      unpack_struct('<HHBdd', operations, position)
  end
end

local function decide()
  local flags, count
  flags, count, position = unpack_struct('<BH', operations, position)
  read_charges(count)
  local peek, holds, fresh = flags % 2 == 1, flags % 4 >= 2, flags % 8 >= 4
  local open = flags >= 8 and 'q' or 'o'
  local hold_key, lifetime, record, late
  local verdict = 'A'
  if holds then
    local hold
    hold, lifetime, record, position = unpack_struct('<HdI4c0', operations, position)
    hold_key = KEYS[bucket_count + hold]
    if not fresh then
      local state, expires = held(hold_key)
      if state and state ~= 'r' and state ~= 'x' then
        verdict = 'P'
        peek = true
        if state ~= 's' then redis.call('SETRANGE', hold_key, 0, state:upper()) end
      elseif state == 'r' then
        -- What was used is charged already; the request itself, the fixed part, is not. It
        -- follows the first 47 bytes of a held charge.
        for c = 1, count do
          if effect[c] >= 8 then
            effect[c], amount[c] = 2, unpack_struct('<d', record, 3 + (c - 1) * 91 + 47)
          end
        end
        late = expires
      end
    end
  end

  for c = 1, count do refill(slot[c], limit[c]) end
  local enforced_over, quotas, quotas_over = false, 0, 0
  for c = 1, count do
    local i = slot[c]
    spent_before[c], fraction_before[c] = spent[i], fraction[i]
    local e = effect[c] % 8
    local ok = e == 2 or spent[i] <= threshold[c]
    fits[c] = ok
    if ok or over[limit[c]] then spend(i, amount[c]) end
    spent_after[c], fraction_after[c] = spent[i], fraction[i]
    if e == 0 then
      if not ok then enforced_over = true end
    elseif e == 1 then
      quotas = quotas + 1
      if not ok then quotas_over = quotas_over + 1 end
    end
  end
  local refused = enforced_over or (quotas > 0 and quotas_over == quotas)
  if verdict == 'P' then
    refused = false
  elseif refused then
    verdict = 'R'
  end

  answer[#answer + 1] = verdict
  if refused or peek then
    for c = count, 1, -1 do
      local i = slot[c]
      spent[i], fraction[i] = spent_before[c], fraction_before[c]
    end
    for c = 1, count do
      if not peek and over[limit[c]] then
        spend(slot[c], amount[c])
        dirty[slot[c]] = true
      end
      tell(fits[c], slot[c])
    end
    return
  end
  for c = 1, count do
    local s = spent_after[c]
    if not fits[c] then s = -s - 1 end
    answer[#answer + 1] = pack('<dd', s, fraction_after[c])
    dirty[slot[c]] = true
  end
  if late then
    close(hold_key, 's', late)
  elseif holds then
    for c = 1, count do
      if not fits[c] and not over[limit[c]] then
        -- Not charged (it was only told): nothing to give back. The amount follows the
        -- first 39 of the 91 bytes of a held charge; all of them follow a count of two bytes.
        local from = 2 + (c - 1) * 91 + 39
        record = record:sub(1, from) .. pack('<d', 0) .. record:sub(from + 9)
      end
    end
    local expires = now + lifetime
    redis.call('SET', hold_key, pack('<c1dd', open, expires, now) .. record, 'PX', floor(lifetime / 1000) + 1)
    if open == 'o' then count_open(expires, 1) end
  end
end

-- Kinds of settlement: 0 release, 1 measured (four counts), 2 missing, 3 total (the first count),
-- 4 withdraw: release and forget, unless a retry was let in on it.
local function settle()
  local hold, lifetime, kind, c1, c2, c3, c4, count
  hold, lifetime, kind, c1, c2, c3, c4, count, position =
    unpack_struct('<HdBddddH', operations, position)
  read_charges(count)
  local hold_key = KEYS[bucket_count + hold]
  local state, expires, made, value, retried = held(hold_key)
  if not state then
    if count == 0 then
      answer[#answer + 1] = 'U'
      return
    end
    answer[#answer + 1] = 'C'
    for c = 1, count do
      refill(slot[c], limit[c])
      spend(slot[c], amount[c])
      dirty[slot[c]] = true
      tell(true, slot[c])
    end
    close(hold_key, 'r', now + lifetime)
    return
  end
  if (state ~= 'o' and state ~= 'q') or (kind == 4 and retried) then
    answer[#answer + 1] = 'D'
    return
  end

  answer[#answer + 1] = pack('<c1dI4', 'S', made, #value - 17)
  answer[#answer + 1] = value:sub(18)
  local charges, byte = unpack_struct('<H', value, 18)
  for _ = 1, charges do
    local key, flags, w1, w2, w3, w4, last, fixed, l
    l = limit_count + 1
    key, flags, numerator[l], denominator[l], last, fixed, period[l], w1, w2, w3, w4, byte =
      unpack_struct('<c22BdddddI4I4I4I4xxxxxxxxxxxx', value, byte)
    window[l] = flags % 2 == 1
    local again, gives_back = flags % 8 >= 4, flags % 16 >= 8
    local tokens = w1 > 0 or w2 > 0 or w3 > 0 or w4 > 0
    local final = last
    if kind == 0 or kind == 4 then
      final = 0
    elseif again then
      -- An earlier charge on the same bucket settles for this one.
      if kind ~= 2 or gives_back then final = 0 end
    elseif kind == 1 and tokens then
      local sum = w1 * c1 + w2 * c2 + w3 * c3 + w4 * c4
      if sum > EXACT then sum = EXACT end
      local cost = floor(sum / 1000)
      if cost * 1000 < sum then cost = cost + 1 end
      final = fixed + cost
    elseif kind == 3 and tokens then
      final = fixed + c1
    elseif kind == 2 and tokens and gives_back then
      final = fixed
    end
    limit_count = l
    local i = slot_of(prefix .. key)
    refill(i, l)
    local correction = final - last
    if correction < 0 and window[l] and now - now % period[l] > made then
      -- This window never bore the charge.
      correction = 0
    end
    spend(i, correction)
    dirty[i] = true
    tell(true, i)
  end
  if kind == 4 then
    redis.call('DEL', hold_key)
  else
    close(hold_key, kind == 0 and 'x' or 's', expires)
  end
  if state == 'o' then count_open(expires, -1) end
end

while position <= #operations do
  local operation
  operation, position = unpack_struct('B', operations, position)
  if operation == 1 then decide() else settle() end
end

for i = 1, #name do
  local s, l = spent[i], held_to[i]
  if s == 0 then
    -- A full bucket is what a missing one is.
    if dirty[i] and lives[i] > 0 then redis.call('DEL', name[i]) end
  elseif l then
    local full_in
    if window[l] then
      full_in = at[i] + period[l] - now
    else
      full_in = s * denominator[l] / numerator[l]
    end
    if full_in > CENTURY then full_in = CENTURY end
    -- Also one that was only looked at may have to live longer now: its rate was lowered.
    local moves = now + full_in > lives[i]
    if dirty[i] or moves then
      -- What was not charged stays as it was: the refill counts again, by the rate of then.
      local state = dirty[i] and pack('<ddd', s, fraction[i], at[i]) or stored[i]:sub(1, 24)
      if moves then
        -- Twice as long as needed, so that a busy bucket's expiry moves rarely.
        local lifetime = floor(full_in * 2) + 60000000
        lives[i] = now + lifetime
        redis.call('SET', name[i], state .. pack('<d', lives[i]), 'PX', floor(lifetime / 1000) + 1)
      else
        redis.call('SET', name[i], state .. pack('<d', lives[i]), 'KEEPTTL')
      end
    end
  end
end

for minute, by in pairs(opened) do
  if by ~= 0 then redis.call('HINCRBY', open_key, string.format('%.0f', minute), by) end
end

return table.concat(answer)
