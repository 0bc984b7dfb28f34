-- Shared by all steps: exact integers, the account hash, the hold record, the journal.
--
-- A step has two phases. First it reads and checks everything, and an error ends it with nothing changed. Then it writes,
-- with commands that cannot fail, because the type of every key was seen by a read; the first write is the journal's.
-- Numbers are exact up to 2^53-1 in Lua; they are written with '%.0f', because tostring(1e15) is '1e+15'.

local call, format, find = redis.call, string.format, string.find
local EXACT = 9007199254740991

-- The hold record: a MessagePack array. A hash would leave its compact encoding as soon as one value (labels) passes
-- 64 bytes, and would cost three times the memory.
local STATE, ACCOUNT, FLOOR, FIRST, CEILING, AMOUNT, EARNED, POSTED, SHORTFALL, RATE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local WORKER, OWNER, PLACED_AT, RENEWED_UNTIL, LIFETIME, MUST_END, ENDED_AT = 11, 12, 13, 14, 15, 16, 17
-- SPLIT: what each pocket reserved, after the end what each one paid; empty where the account has one pocket.
-- SCOPES: {key, budget key or '', measure, limit or -1, window's end or 0, and where it has them: detail, outbox key, 1 where
-- an approval lifts the budget for this hold} each.
-- Measures: m money, u uses, o open holds, s share of the account (limit in millionths), y a line of a day's usage, q quote.
-- COST: what post was asked for, -1 before. ASKED: the ceiling that place was asked for; an approval may lower or raise it.
local SPLIT, SCOPES, LABELS, OUTCOME, COST, ASKED = 18, 19, 20, 21, 22, 23

local function fail(what)
  error({err = 'ERR farebox: ' .. what})
end

local function int(value, name)
  if value and #value <= 15 and (value == '0' or find(value, '^[1-9]%d*$')) then
    return tonumber(value)
  end
  return fail('not an integer of at most 15 digits: ' .. name)
end

-- A number that a script of ours wrote; only what was handed over is read by its digits.
local function stored(value, name)
  if not value then return 0 end
  return tonumber(value) or fail('corrupt: ' .. name)
end

local function name_of(value, what)
  if value and #value <= 200 and find(value, '^[%w_.:@-]+$') then return value end
  return fail('not an id: ' .. what)
end

local function digits(number)
  return format('%.0f', number)
end

local function now_ms()
  local time = call('TIME')
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
  local v = call('HMGET', key, 'unit', 'available', 'held', 'credited', 'posted', 'debt', 'rate', 'shortfalls',
    'frozen', 'allowance', 'prepaid', 'postpaid', field or '', other or '', 'period_ends', 'lowering')
  if not v[1] then return nil, v[13], v[14] end
  local account = {unit = v[1], available = stored(v[2], 'available'), held = stored(v[3], 'held'),
    credited = stored(v[4], 'credited'), posted = stored(v[5], 'posted'), debt = stored(v[6], 'debt'),
    rate = stored(v[7], 'rate'), shortfalls = stored(v[8], 'shortfalls'), frozen = v[9],
    period_ends = stored(v[15], 'period_ends'), lowering = stored(v[16], 'lowering')}
  if v[10] then account.pockets = {pocket_of(v[10]), pocket_of(v[11]), pocket_of(v[12])} end
  return account, v[13], v[14]
end

local function save_account(key, account)
  call('HSET', key, 'available', digits(account.available), 'held', digits(account.held), 'posted', digits(account.posted))
  if not account.pockets then return end
  local fields = {}
  for i, pocket in ipairs(account.pockets) do
    fields[i] = digits(pocket.available) .. ' ' .. digits(pocket.held) .. ' ' .. digits(pocket.posted)
  end
  call('HSET', key, 'allowance', fields[1], 'prepaid', fields[2], 'postpaid', fields[3])
  if account.lowered then
    call('HSET', key, 'credited', digits(account.credited), 'lowering', digits(account.lowering))
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

local function hold_of(key)
  local raw = call('GET', key)
  if not raw then return nil end
  local hold = cmsgpack.unpack(raw)
  if type(hold) ~= 'table' or #hold ~= ASKED then return fail('corrupt: hold') end
  return hold
end

-- One entry: kind, time, account, id, then `adds`: what the movement adds to available, held, credited, posted, debt; `more`.
-- The stream numbers its entries 0-1, 0-2, ... by itself: without gaps, and going on after a trim.
local function journal(key, kind, now, account, id, adds, more)
  call('XADD', key, '0-*', 'e', kind .. ' ' .. digits(now) .. ' ' .. account .. ' ' .. id .. ' ' .. adds .. (more or ''))
end

-- The limit and state of a budget record now; `given` where the record has no limit. nil where nobody says a limit.
local function limit_of(key, given, now)
  local v = call('HMGET', key, 'limit', 'state', 'raised', 'raised_until')
  local limit = v[1] and stored(v[1], 'limit') or (given >= 0 and given or nil)
  if limit and v[4] and now < stored(v[4], 'raised_until') then limit = stored(v[3], 'raised') end
  return limit, v[2] or 'active'
end

-- `ppm` millionths of a whole, exactly enough: the product would leave the exact range.
local function share_of(whole, ppm)
  return math.floor(whole / 1000000) * ppm + math.floor((whole % 1000000) * ppm / 1000000)
end

-- Something to tell: `data` is the inside of a JSON object.
local function tell(outbox, kind, now, org, data)
  call('XADD', outbox, '*', 'kind', kind, 'at', digits(now), 'org', org, 'data', '{' .. data .. '}')
end

-- What a money scope says besides its limit: what to do there, whom to tell, at which shares (per cent).
local function scope_detail(detail)
  local exceed, org, alerts = string.match(detail or '', '^(%a+) (%S+) ?(.*)$')
  return exceed or 'refuse', org, alerts or ''
end

local function scope_name(key)
  return string.match(key, '^{p%x%x}%a:(.*)$') or key
end

local function budget_name(key)
  return string.match(key, '^{p%x%x}b:(.*)$') or ''
end

-- JSON text of a name: ids and scopes hold nothing that JSON escapes.
local function told(key, budget, limit, used)
  local window, scope = string.match(scope_name(key), '^([^|]*)|(.*)$')
  return format('"budget_id":"%s","window":"%s","scope":"%s","limit":"%s","used":"%s"',
    budget_name(budget), window or '', scope or '', digits(limit), digits(used))
end
