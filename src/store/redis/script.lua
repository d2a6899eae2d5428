-- Many operations, decided in their order, in one call: what limit::decide and HeldCharge say,
-- said again for the place where the state is. A property test holds the two equal.
--
-- KEYS[1]          the hash of all buckets
-- KEYS[2]          the hash that counts open reservations
-- KEYS[3 .. ]      reservations, each once
-- ARGV[1]          P and B; the distinct limits of the other operations; which of them each of the
--                  B buckets is held to first, 0 where that is for the operations to say
-- ARGV[2]          the plain charges, in groups
-- ARGV[3]          the other operations
-- ARGV[4]          the time in microseconds; empty: this server's
-- ARGV[5]          the buckets, 16 bytes each: P of plain charges, B of the other operations. Each
--                  once in its part; it may be in both
--
-- Returns one string: the time, what was found of each bucket of plain charges, and the other
-- operations' answers. Numbers are little-endian doubles, all of them integers below 2^53, so that
-- every sum is exact.
--
-- What costs here is each redis.call, then every table and closure that is made. So all buckets of
-- a part are read by one call and written by one, and what plain charges do not need is made when
-- other operations come.

local unpack_struct, pack, floor, call = struct.unpack, struct.pack, math.floor, redis.call
local EXACT = 9007199254740992
local MAX_SPENT = 4000000000000000
-- The longest a bucket is remembered after its last charge, even with a debt at a rate of nearly
-- nothing.
local CENTURY = 3155760000000000
-- A bucket is remembered for twice as long as it needs to be full, and this: the rate may be
-- lowered before the next charge.
local LONGER = 60000000

local now = tonumber(ARGV[4])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local header, operations = ARGV[1], ARGV[3]
local plain_count, bucket_count, limit_count, header_byte = unpack_struct('<HHH', header)

local buckets = KEYS[1]
-- Buckets to write, each followed by its state.
local written, put = {}, 0

-- Plain charges: one to an operation, applied, with no reservation, in groups: flags of a limit, so
-- many buckets, numerator and denominator, amount and threshold. For token buckets with one charge
-- each that is enforced, that is all, and 128 is added to the flags. For others follow the period,
-- how many charges each bucket has, and their effect (0 enforce, 1 quota, 2 record, 3 shadow; + 128:
-- the next group goes on with this one's bucket). A group that goes on, or with which another one
-- does, has one bucket.
--
-- What each came to is not told. The caller can say it from the state that was found: it has the
-- same arithmetic.
local names, found
local groups = ARGV[2]
-- Of the buckets that need care, where their group is.
local careful = {}

-- First what nearly all are: token buckets that let in all of a group's charges, or none. With
-- these Redis spends its time, so they are decided without a function, in as few steps as possible.
if plain_count > 0 then
  -- After the names comes a number that nobody needs.
  names = { unpack_struct(string.rep('c16', plain_count), ARGV[5]) }
  found = call('HMGET', buckets, unpack(names, 1, plain_count))
  -- As a token bucket that is full.
  local never_seen = pack('<dddd', 0, 0, now, 0)
  local position, last, goes_on = 1, 0, false
  while position <= #groups do
    local flags, count, n, d, amount, threshold, next_position =
      unpack_struct('<BHdddd', groups, position)
    local times, effect, _ = 1, 0, nil
    if flags < 128 then
      _, times, effect, next_position = unpack_struct('<dHB', groups, next_position)
    else
      flags = flags - 128
    end
    local first = last + 1
    if not goes_on then last = last + count end
    if goes_on then
      -- The one before has its position.
    elseif flags % 2 == 1 or effect >= 128 or amount <= 0 or threshold + amount > MAX_SPENT then
      for i = first, last do careful[i] = position end
    else
      -- Up to `most` spent, all are let in. Beyond the threshold none is, and that leaves no trace
      -- where a charge that does not fit is not made. In between, some are: that needs care.
      local all = amount * times
      local most = threshold + amount - all
      local traceless = flags < 2 and effect < 2
      local refill_time = d / n
      for i = first, last do
        local state = found[i]
        if not state or #state ~= 32 then
          state = never_seen
          found[i] = state
        end
        local spent, fraction, at, lives = unpack_struct('<dddd', state)
        local parts = (now - at) * n + fraction
        local rest = parts % d
        spent = spent - (parts - rest) / d
        if at > now or parts >= EXACT or fraction >= d then
          careful[i] = position
        else
          if spent <= 0 then spent, rest = 0, 0 end
          if spent <= most then
            spent = spent + all
            local full_in = spent * refill_time
            if full_in > CENTURY then full_in = CENTURY end
            if now + full_in > lives then
              lives = now + floor(full_in * 2) + LONGER
            end
            written[put + 1] = names[i]
            put = put + 2
            written[put] = pack('<dddd', spent, rest, now, lives)
          elseif spent <= threshold or not traceless or now + spent * refill_time > lives then
            careful[i] = position
          end
        end
      end
    end
    goes_on = effect >= 128
    position = next_position
  end
  if not next(careful) and operations == '' then
    if put > 0 then call('HSET', buckets, unpack(written, 1, put)) end
    found[0] = pack('<d', now)
    return table.concat(found, '', 0, plain_count)
  end
end

-- A limit: flags (1 = fixed window, 2 = charge when over, 64 = by a calendar), numerator,
-- denominator, period; of a calendar window its start, its end, and the length of the next one.
local limits = {}
for l = 1, limit_count do
  local flags, numerator, denominator, period
  flags, numerator, denominator, period, header_byte =
    unpack_struct('<Bddd', header, header_byte)
  limits[l] = { flags, numerator, denominator, period }
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

-- When the window began that a time lies in, and when it ends. A calendar window knows no other
-- beginnings than its own and the next one's: nothing is reset at a time that nobody named.
local function window(limit, time)
  local period = limit[4]
  if limit[1] < 64 then
    local start = time - time % period
    return start, start + period
  end
  local start, stop = limit[2], limit[3]
  if time < start then return 0, start end
  if time < stop then return start, stop end
  return stop, time - (time - stop) % period + period
end

-- A bucket's spent, fraction and time after it was refilled.
local function refilled(spent, fraction, at, limit)
  if limit[1] % 2 == 1 then
    local start = window(limit, now)
    if start > at then return 0, 0, start end
    return spent, fraction, at
  end
  if now <= at then return spent, fraction, at end
  if spent == 0 then return 0, 0, now end
  local n, d = limit[2], limit[3]
  if fraction >= d then fraction = d - 1 end
  local elapsed = now - at
  local periods = floor(elapsed / d)
  local back = periods * n
  if back < spent then
    local rest = elapsed - periods * d
    local parts = rest * n + fraction
    local q
    if parts < EXACT then
      q = floor(parts / d)
      fraction = parts - q * d
    else
      q, fraction = long_division(rest, n, fraction, d)
    end
    back = back + q
  end
  if back >= spent then return 0, 0, now end
  return spent - back, fraction, now
end

-- A bucket's spent and fraction after it took an amount.
local function charged(spent, fraction, amount)
  spent = spent + amount
  if spent > MAX_SPENT then return MAX_SPENT, fraction end
  if spent <= 0 then return 0, 0 end
  return spent, fraction
end

-- Buckets to forget.
local forgotten, dropped = {}, 0

-- Writes a bucket that was changed; one that was only looked at comes with what is `stored`.
-- `lives` says until when it is remembered, zero that it is not.
local function write(name, spent, fraction, at, lives, limit, stored)
  if spent == 0 then
    -- A full bucket is what a missing one is.
    if lives > 0 and not stored then
      dropped = dropped + 1
      forgotten[dropped] = name
    end
    return
  end
  local full_in
  if limit[1] % 2 == 1 then
    local _, stop = window(limit, at > now and at or now)
    full_in = stop - now
  else
    full_in = spent * limit[3] / limit[2]
  end
  if full_in > CENTURY then full_in = CENTURY end
  local state
  if now + full_in > lives then
    lives = now + floor(full_in * 2) + LONGER
    -- One that was only looked at has to live longer where its rate was lowered; the refill counts
    -- again, by the rate of then.
    if stored then state = stored:sub(1, 24) .. pack('<d', lives) end
  elseif stored then
    return
  end
  written[put + 1] = name
  put = put + 2
  written[put] = state or pack('<dddd', spent, fraction, at, lives)
end

-- Lua's stack holds 8,000 values, and reservations may know more buckets than were counted.
local SLICE = 6000

local function in_slices(command, values, count)
  for first = 1, count, SLICE do
    local last = first + SLICE - 1
    call(command, buckets, unpack(values, first, last < count and last or count))
  end
end

local function write_all()
  in_slices('HSET', written, put)
  in_slices('HDEL', forgotten, dropped)
end

-- The plain charges that need care.
local NEVER_SEEN = string.rep('\0', 32)
local position, flags, n, d, amount, threshold, period, times, effect, next_position, _
local function read_group(from)
  position = from
  flags, _, n, d, amount, threshold, next_position = unpack_struct('<BHdddd', groups, from)
  period, times, effect = 0, 1, 0
  if flags < 128 then
    period, times, effect, next_position = unpack_struct('<dHB', groups, next_position)
  else
    flags = flags - 128
  end
end
for i = 1, plain_count do
  if careful[i] then
    if careful[i] ~= position then read_group(careful[i]) end
    local limit, state, dirty = { flags, n, d, period }, found[i], false
    if not state or #state ~= 32 then
      state = NEVER_SEEN
      found[i] = state
    end
    local spent, fraction, at, lives = unpack_struct('<dddd', state)
    spent, fraction, at = refilled(spent, fraction, at, limit)
    while true do
      for _ = 1, times do
        if flags % 4 >= 2 or effect % 128 == 2 or spent <= threshold then
          spent, fraction = charged(spent, fraction, amount)
          dirty = true
        elseif effect % 128 == 3 then
          dirty = true
        end
      end
      if effect < 128 then break end
      read_group(next_position)
    end
    write(names[i], spent, fraction, at, lives, limit, not dirty and state)
  end
end

local answer, told = { pack('<d', now) }, 1
if plain_count > 0 then
  write_all()
  told = 2
  answer[told] = table.concat(found, '', 1, plain_count)
end
if operations == '' then return table.concat(answer) end

local function say(text)
  told = told + 1
  answer[told] = text
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
  local format = string.rep('c16', bucket_count)
  name = { unpack_struct(format, ARGV[5], plain_count * 16 + 1) }
  name[bucket_count + 1] = nil
  stored = call('HMGET', buckets, unpack(name, 1, bucket_count))
  -- What each is held to first; 0: that is seen later.
  local first_limits = { unpack_struct('<' .. string.rep('H', bucket_count), header, header_byte) }
  for i = 1, bucket_count do
    local value, l = stored[i], first_limits[i]
    local s, f, a, until_when
    if value and #value == 32 then
      s, f, a, until_when = unpack_struct('<dddd', value)
    else
      s, f, a, until_when = 0, 0, 0, 0
    end
    if l > 0 then
      held_to[i] = l
      local limit = limits[l]
      local parts, d = (now - a) * limit[2] + f, limit[3]
      if limit[1] % 2 == 1 or a > now or parts >= EXACT or f >= d then
        s, f, a = refilled(s, f, a, limit)
      else
        f = parts % d
        s, a = s - (parts - f) / d, now
        if s <= 0 then s, f = 0, 0 end
      end
    end
    spent[i], fraction[i], at[i], lives[i] = s, f, a, until_when
  end
end

-- The bucket of a reservation, which need not be among ARGV.
local function slot_of(key)
  if not slots then
    slots = {}
    for i = 1, #name do slots[name[i]] = i end
  end
  local i = slots[key]
  if not i then
    i = #name + 1
    load(i, key, call('HGET', buckets, key))
    slots[key] = i
  end
  return i
end

local function refill(i, l)
  held_to[i] = l
  spent[i], fraction[i], at[i] = refilled(spent[i], fraction[i], at[i], limits[l])
end

local function spend(i, amount)
  spent[i], fraction[i] = charged(spent[i], fraction[i], amount)
end

local function over(l)
  return limits[l][1] % 4 >= 2
end

local function reading(fits, i)
  return pack('<dd', fits and spent[i] or -spent[i] - 1, fraction[i])
end

-- Open reservations are counted by the minute in which they expire.
local opened, opened_so_far = {}, {}
local function count_open(expires, state, by)
  local minute = floor(expires / 60000000)
  local counts = state == 'p' and opened_so_far or opened
  counts[minute] = (counts[minute] or 0) + by
end

-- A reservation's value: its state, when it expires, when it was made, and the charges. States:
-- o = open, p = open, and was told what was used so far, q = open but only to tell a retry (no
-- report will come, so it is not counted), s = settled, x = released, r = reported before its
-- admission came, m = ended by a report that did not find all usage. O, P and Q are o, p and q that
-- a retry was let in on.
--
-- One that was open until it expired is late for as long again: a report still settles it.
local function held(key)
  local value = call('GET', key)
  if value then
    local state, expires, made = unpack_struct('<c1dd', value)
    local lower = state:lower()
    local late = expires <= now
    local known = not late or ((lower == 'o' or lower == 'p') and 2 * expires - made > now)
    if known then return lower, late, expires, made, value, state ~= lower end
  end
  return nil
end

-- An argument for PX. A number would be written by a costlier way; and most lifetimes are the same.
local last_lifetime, last_milliseconds
local function milliseconds(lifetime)
  if lifetime ~= last_lifetime then
    last_lifetime = lifetime
    last_milliseconds = string.format('%d', floor(lifetime / 1000) + 1)
  end
  return last_milliseconds
end

-- Writes a reservation that is open; it is known until it is late no more.
local function keep(key, state, expires, made, record)
  local lifetime = expires - now
  if state ~= 'q' then lifetime = lifetime + expires - made end
  call('SET', key, pack('<c1dd', state, expires, made) .. record, 'PX', milliseconds(lifetime))
end

-- What is left of a reservation that ended, to know what comes again. For ten minutes, or for as
-- long as it may be open if that is shorter: whatever comes twice comes within seconds.
local function close(key, state, length, made, record)
  length = math.min(length, 600000000)
  local value = pack('<c1dd', state, now + length, made) .. record
  call('SET', key, value, 'PX', milliseconds(length))
end

local position = 1

-- Charges: slot, limit, effect (0 enforce, 1 quota, 2 record, 3 shadow; + 8 where a report changes
-- it), amount, threshold.
local slot, limit, effect, amount, threshold = {}, {}, {}, {}, {}
local spent_before, fraction_before, fits = {}, {}, {}
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
  local open = flags % 16 >= 8 and 'q' or 'o'
  local hold_key, lifetime, record, reported
  local verdict = 'A'
  if holds then
    local hold
    hold, lifetime, record, position = unpack_struct('<HdI4c0', operations, position)
    hold_key = KEYS[2 + hold]
    if not fresh then
      local state, late = held(hold_key)
      if state and not late and state ~= 'r' and state ~= 'x' then
        verdict = 'P'
        peek = true
        if state ~= 's' and state ~= 'm' then call('SETRANGE', hold_key, 0, state:upper()) end
      elseif state == 'r' then
        -- What was used is charged already; the request itself, the fixed part, is not. It
        -- follows the first 41 bytes of a held charge.
        for c = 1, count do
          if effect[c] >= 8 then
            effect[c], amount[c] = 2, unpack_struct('<d', record, 3 + (c - 1) * 85 + 41)
          end
        end
        reported = true
      end
    end
  end

  for c = 1, count do
    -- A second time by the same limit changes nothing.
    if held_to[slot[c]] ~= limit[c] then refill(slot[c], limit[c]) end
  end
  local enforced_over, quotas, quotas_over = false, 0, 0
  local place = told + 1
  told = place + count
  for c = 1, count do
    local i = slot[c]
    local before = spent[i]
    spent_before[c], fraction_before[c] = before, fraction[i]
    local e = effect[c] % 8
    local ok = e == 2 or before <= threshold[c]
    fits[c] = ok
    if ok or over(limit[c]) then
      spent[i], fraction[i] = charged(before, fraction[i], amount[c])
    end
    answer[place + c] = pack('<dd', ok and spent[i] or -spent[i] - 1, fraction[i])
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

  answer[place] = verdict
  if refused or peek then
    for c = count, 1, -1 do
      local i = slot[c]
      spent[i], fraction[i] = spent_before[c], fraction_before[c]
    end
    for c = 1, count do
      local i = slot[c]
      if not peek and over(limit[c]) then
        spend(i, amount[c])
        dirty[i] = true
      end
      answer[place + c] = reading(fits[c], i)
    end
    return
  end
  for c = 1, count do dirty[slot[c]] = true end
  if reported then
    close(hold_key, 's', lifetime, now, '')
  elseif holds then
    for c = 1, count do
      if not fits[c] and not over(limit[c]) then
        -- Not charged (it was only told): nothing to give back. The amount follows the
        -- first 33 of the 85 bytes of a held charge; all of them follow a count of two bytes.
        local from = 2 + (c - 1) * 85 + 33
        record = record:sub(1, from) .. pack('<d', 0) .. record:sub(from + 9)
      end
    end
    local expires = now + lifetime
    keep(hold_key, open, expires, now, record)
    if open == 'o' then count_open(expires, open, 1) end
  end
end

-- Kinds of settlement: 0 release, 1 measured (four counts), 2 missing, 3 total (the first count),
-- 4 withdraw: release and forget, unless a retry was let in on it, 5 what was used so far (four
-- counts): the reservation goes on, 6 cut short after so much (four counts).
local function settle()
  local hold, lifetime, kind, c1, c2, c3, c4, count
  hold, lifetime, kind, c1, c2, c3, c4, count, position =
    unpack_struct('<HdBddddH', operations, position)
  read_charges(count)
  local hold_key = KEYS[2 + hold]
  local state, late, expires, made, value, retried = held(hold_key)
  if not state then
    if count == 0 or kind == 5 then
      say('U')
      return
    end
    say('C')
    for c = 1, count do
      refill(slot[c], limit[c])
      spend(slot[c], amount[c])
      dirty[slot[c]] = true
      say(reading(true, slot[c]))
    end
    close(hold_key, 'r', lifetime, now, '')
    return
  end
  local counted = state == 'o' or state == 'p'
  local measured = kind == 1 or kind == 3
  local ends = counted or (state == 'q' and kind ~= 5) or (state == 'm' and measured)
  if not ends or (kind == 4 and retried) then
    say('D')
    return
  end

  say(pack('<c1dI4', kind == 5 and 'G' or 'S', made, #value - 17))
  local record = value:sub(18)
  say(record)
  local charges, byte = unpack_struct('<H', value, 18)
  for c = 1, charges do
    local key, flags, numerator, denominator, last, fixed, period, w1, w2, w3, w4
    key, flags, numerator, denominator, last, fixed, period, w1, w2, w3, w4, byte =
      unpack_struct('<c16BdddddI4I4I4I4xxxxxxxxxxxx', value, byte)
    limit_count = limit_count + 1
    limits[limit_count] = { flags, numerator, denominator, period }
    local again, gives_back = flags % 8 >= 4, flags % 16 >= 8
    local tokens = w1 > 0 or w2 > 0 or w3 > 0 or w4 > 0
    local final = last
    if kind == 0 or kind == 4 then
      final = 0
    elseif kind == 5 and (again or not tokens) then
      final = last
    elseif again then
      -- An earlier charge on the same bucket settles for this one.
      if (kind ~= 2 and kind ~= 6) or gives_back then final = 0 end
    elseif (kind == 1 or kind == 5 or kind == 6) and tokens then
      local sum = w1 * c1 + w2 * c2 + w3 * c3 + w4 * c4
      if sum > EXACT then sum = EXACT end
      local cost = floor(sum / 1000)
      if cost * 1000 < sum then cost = cost + 1 end
      final = fixed + cost
      if kind == 5 or (kind == 6 and not gives_back) then final = math.max(final, last) end
    elseif kind == 3 and tokens then
      final = fixed + c1
    elseif kind == 2 and tokens and gives_back then
      final = fixed
    end
    local i = slot_of(key)
    refill(i, limit_count)
    local correction = final - last
    if correction < 0 and flags % 2 == 1 and window(limits[limit_count], now) > made then
      -- This window never bore the charge.
      correction = 0
    end
    spend(i, correction)
    dirty[i] = true
    say(reading(true, i))
    if kind == 2 or kind == 5 or kind == 6 then
      -- It is remembered still: with what is charged now. What was told so far is not given back
      -- by a report without usage.
      local from = 2 + (c - 1) * 85
      if kind == 5 and gives_back then
        record = record:sub(1, from + 16) .. pack('B', flags - 8) .. record:sub(from + 18)
      end
      if correction ~= 0 then
        local charged_now = pack('<d', last + correction)
        record = record:sub(1, from + 33) .. charged_now .. record:sub(from + 42)
      end
    end
  end
  if counted and not late then count_open(expires, state, -1) end
  if kind == 5 then
    expires = now + lifetime
    keep(hold_key, retried and 'P' or 'p', expires, made, record)
    count_open(expires, 'p', 1)
  elseif kind == 4 then
    call('DEL', hold_key)
  elseif kind == 2 or kind == 6 then
    -- Another way in may still find how much it was.
    close(hold_key, 'm', expires - made, made, record)
  else
    close(hold_key, kind == 0 and 'x' or 's', expires - made, made, '')
  end
end

-- An admission that is let in, with a reservation that is new if it has one: what `decide` does for
-- most, in a few steps. Returns where the next operation is, or nothing: then nothing was done but
-- that buckets were refilled.
local function admit(flags, count, next_position)
  local slot, amount, spent, fraction = slot, amount, spent, fraction
  for c = 1, count do
    local i, l, threshold, _
    i, l, _, amount[c], threshold, next_position =
      unpack_struct('<HHBdd', operations, next_position)
    if held_to[i] ~= l then refill(i, l) end
    local before = spent[i]
    local after = before + amount[c]
    if before > threshold or after <= 0 or after > MAX_SPENT then return nil end
    slot[c], amount[c] = i, after
  end
  if flags % 4 >= 2 then
    local hold, lifetime, record
    hold, lifetime, record, next_position = unpack_struct('<HdI4c0', operations, next_position)
    local hold_key = KEYS[2 + hold]
    if flags % 8 < 4 and held(hold_key) then return nil end
    local expires, open = now + lifetime, flags % 16 >= 8 and 'q' or 'o'
    keep(hold_key, open, expires, now, record)
    if open == 'o' then count_open(expires, open, 1) end
  end
  told = told + 1
  answer[told] = 'A'
  for c = 1, count do
    local i, after = slot[c], amount[c]
    spent[i], dirty[i] = after, true
    answer[told + c] = pack('<dd', after, fraction[i])
  end
  told = told + count
  return next_position
end

while position <= #operations do
  local operation, flags, count, next_position = unpack_struct('<BBH', operations, position)
  position = position + 1
  if operation ~= 1 then
    settle()
  else
    -- Its charges are on different buckets, and it does more than look.
    local done = flags >= 16 and flags % 2 == 0 and admit(flags, count, next_position)
    if done then position = done else decide() end
  end
end

put, dropped = 0, 0
for i = 1, #name do
  local l = held_to[i]
  if l then
    local limit, s, until_when = limits[l], spent[i], lives[i]
    if dirty[i] and s > 0 and limit[1] % 2 == 0 and now + s * limit[3] / limit[2] <= until_when then
      written[put + 1] = name[i]
      put = put + 2
      written[put] = pack('<dddd', s, fraction[i], at[i], until_when)
    else
      write(name[i], s, fraction[i], at[i], until_when, limit, not dirty[i] and stored[i])
    end
  end
end
write_all()

for suffix, counts in pairs({ [''] = opened, p = opened_so_far }) do
  for minute, by in pairs(counts) do
    if by ~= 0 then call('HINCRBY', KEYS[2], string.format('%d', minute) .. suffix, by) end
  end
end

return table.concat(answer)
