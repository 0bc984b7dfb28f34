-- Shared by all steps: exact integers, the account hash, the hold record, the journal.
--
-- A step has two phases. First it reads and checks everything, and an error ends it with nothing changed. Then it writes,
-- with commands that cannot fail, because the type of every key was seen by a read; the first write is the journal's.
-- Numbers are exact up to 2^53-1 in Lua; they are written with '%.0f', because tostring(1e15) is '1e+15'.

local EXACT = 9007199254740991

-- The hold record: a MessagePack array. A hash would leave its compact encoding as soon as one value (labels) passes
-- 64 bytes, and would cost three times the memory.
local STATE, ACCOUNT, FLOOR, FIRST, CEILING, AMOUNT, EARNED, POSTED, SHORTFALL, RATE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local WORKER, OWNER, PLACED_AT, RENEWED_UNTIL, LIFETIME, MUST_END, ENDED_AT = 11, 12, 13, 14, 15, 16, 17
-- SPLIT: what each pocket reserved, after the end what each one paid; empty where the account has one pocket.
-- SCOPES: {counter key, budget key or '', 'm' or 'u', limit or -1, window's end or 0} each. COST: what post was asked for, -1 before.
local SPLIT, SCOPES, LABELS, OUTCOME, COST = 18, 19, 20, 21, 22

local function fail(what)
  error({err = 'ERR farebox: ' .. what})
end

local function int(value, name)
  if value and #value <= 15 and (value == '0' or string.find(value, '^[1-9]%d*$')) then
    return tonumber(value)
  end
  return fail('not an integer of at most 15 digits: ' .. name)
end

local function stored(value, name)
  if not value then return 0 end
  if #value <= 17 and string.find(value, '^%-?%d+$') then return tonumber(value) end
  return fail('corrupt: ' .. name)
end

local function name_of(value, what)
  if value and #value <= 200 and string.find(value, '^[%w_.:@-]+$') then return value end
  return fail('not an id: ' .. what)
end

local function digits(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A pocket's field is 'available held posted'.
local function pocket_of(value)
  local a, h, p = string.match(value or '', '^(%d+) (%d+) (%d+)$')
  if not a then return fail('corrupt: pocket') end
  return {available = stored(a), held = stored(h), posted = stored(p)}
end

-- The account, or nil where it does not exist; then the values of two more fields.
local function account_of(key, field, other)
  local v = redis.call('HMGET', key, 'unit', 'available', 'held', 'credited', 'posted', 'debt', 'rate', 'shortfalls',
    'frozen', 'allowance', 'prepaid', 'postpaid', field or '', other or '')
  if not v[1] then return nil, v[13], v[14] end
  local account = {unit = v[1], available = stored(v[2], 'available'), held = stored(v[3], 'held'),
    credited = stored(v[4], 'credited'), posted = stored(v[5], 'posted'), debt = stored(v[6], 'debt'),
    rate = stored(v[7], 'rate'), shortfalls = stored(v[8], 'shortfalls'), frozen = v[9]}
  if v[10] then account.pockets = {pocket_of(v[10]), pocket_of(v[11]), pocket_of(v[12])} end
  return account, v[13], v[14]
end

local function save_account(key, account)
  redis.call('HSET', key, 'available', digits(account.available), 'held', digits(account.held),
    'posted', digits(account.posted))
  if account.pockets then
    local fields = {}
    for i, pocket in ipairs(account.pockets) do
      fields[i] = digits(pocket.available) .. ' ' .. digits(pocket.held) .. ' ' .. digits(pocket.posted)
    end
    redis.call('HSET', key, 'allowance', fields[1], 'prepaid', fields[2], 'postpaid', fields[3])
  end
end

-- Move `amount` from what is available into the hold, pocket by pocket in their order.
local function reserve(account, split, amount)
  account.available = account.available - amount
  account.held = account.held + amount
  if not account.pockets then return end
  for i, pocket in ipairs(account.pockets) do
    local part = math.min(pocket.available, amount)
    pocket.available = pocket.available - part
    pocket.held = pocket.held + part
    split[i] = (split[i] or 0) + part
    amount = amount - part
  end
  if amount > 0 then fail('corrupt: the pockets do not sum to the account') end
end

-- Move `amount` out of the hold, the pocket that was drawn last first.
local function release(account, split, amount)
  account.available = account.available + amount
  account.held = account.held - amount
  if account.held < 0 then fail('corrupt: less is held than the hold holds') end
  if not account.pockets then return end
  for i = 3, 1, -1 do
    local part = math.min(split[i], amount)
    account.pockets[i].available = account.pockets[i].available + part
    account.pockets[i].held = account.pockets[i].held - part
    split[i] = split[i] - part
    amount = amount - part
  end
end

local function hold_of(key)
  local raw = redis.call('GET', key)
  if not raw then return nil end
  local hold = cmsgpack.unpack(raw)
  if type(hold) ~= 'table' or #hold ~= COST then return fail('corrupt: hold') end
  return hold
end

-- The hold's scopes with their counters. nil where the keys that were handed over from KEYS[first] on are not the very
-- keys that the hold reserved on.
local function counters_of(hold, first)
  local counters = {}
  for i, scope in ipairs(hold[SCOPES]) do
    if KEYS[first] ~= scope[1] then return nil end
    first = first + 1
    if scope[2] ~= '' then
      if KEYS[first] ~= scope[2] then return nil end
      first = first + 1
    end
    local v = redis.call('HMGET', scope[1], 'used', 'held')
    counters[i] = {key = scope[1], budget = scope[2], measure = scope[3], limit = scope[4], gone = not v[1],
      used = stored(v[1], 'used'), held = stored(v[2], 'held')}
  end
  return counters
end

local function keys_reply(hold)
  local reply = {'keys'}
  for _, scope in ipairs(hold[SCOPES]) do
    reply[#reply + 1] = scope[1]
    if scope[2] ~= '' then reply[#reply + 1] = scope[2] end
  end
  return reply
end

-- The most that can be had besides what is held: of what is available, and in every scope that counts money.
local function room_of(account, counters)
  local room = account.available
  for _, counter in ipairs(counters) do
    if counter.measure == 'm' and not counter.gone then
      local limit = counter.limit
      if counter.budget ~= '' then
        local budget = redis.call('HMGET', counter.budget, 'limit', 'state')
        limit = budget[2] == 'active' and stored(budget[1], 'limit') or 0
      end
      room = math.min(room, limit - counter.used - counter.held)
    end
  end
  return math.max(room, 0)
end

local function save_counter(counter)
  if not counter.gone then
    redis.call('HSET', counter.key, 'used', digits(counter.used), 'held', digits(counter.held))
  end
end

-- One entry: kind, time, account, id, then what the movement adds to available, held, credited, posted, debt; then `more`.
-- The stream numbers its entries 0-1, 0-2, ... by itself: without gaps, and going on after a trim.
local function journal(key, kind, now, account, id, available, held, credited, posted, debt, more)
  redis.call('XADD', key, '0-*', 'e', string.format('%s %.0f %s %s %.0f %.0f %.0f %.0f %.0f%s', kind, now, account, id,
    available, held, credited, posted, debt, more or ''))
end
