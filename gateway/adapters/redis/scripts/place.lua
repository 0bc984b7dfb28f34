#!lua
-- uses: prelude
-- place: reserve the most there is between floor and ceiling, on the account and on every scope, or say what refuses.
-- KEYS  account, hold, open holds, journal; then per scope its counter, where it has one its budget record, and where it
--       has a detail of money the outbox
-- ARGV  1 hold id, 2 account id, 3 floor, 4 first, 5 ceiling, 6 rate, 7 worker, 8 owner ('' the worker's own),
--       9 lifetime ms, 10 greatest age ms, 11 field of the credit ('' none), 12 field of the revocation ('' none), 13 labels,
--       14 shortfalls from which on to refuse (0 never), 15 ms that a counter outlives its window;
--       then per scope: measure and, after a space, its detail; limit ('' it stands in the budget, '5+' the budget may say
--       another); window's end ms (0 none). Measures: see prelude; 'g' is a guard: the key's number must be the limit.
--       Details: m 'refuse|pause|ask <org> <per cent> ...', y the line, q the digest of the request.
-- reply {'placed', granted, available, state, replayed 0|1, shortfalls, ceiling}
--       {reason, available, held, [rate | scope's place from 1, limit, used, held]}

local id, account_id = name_of(ARGV[1], 'hold'), name_of(ARGV[2], 'account')
local floor, first, ceiling = int(ARGV[3], 'floor'), int(ARGV[4], 'first'), int(ARGV[5], 'ceiling')
local rate, lifetime, greatest_age = int(ARGV[6], 'rate'), int(ARGV[9], 'lifetime'), int(ARGV[10], 'greatest age')
local most_shortfalls, outlives = int(ARGV[14], 'most shortfalls'), int(ARGV[15], 'outlives')
local worker, owner, labels = ARGV[7], ARGV[8], ARGV[13]
if floor > first or first > ceiling then fail('floor <= first <= ceiling') end
if owner ~= '' then name_of(owner, 'owner') end
local scopes, guards, key, arg = {}, {}, 5, 16
while KEYS[key] do
  local measure, detail = string.match(ARGV[arg] or '', '^([muosygq]) ?(.*)$')
  if not measure then fail('no such measure') end
  local limit, own, ends_at = ARGV[arg + 1] or '', KEYS[key], int(ARGV[arg + 2], 'window end')
  local figure, plus = string.match(limit, '^(%d*)(%+?)$')
  if measure == 'g' then
    guards[#guards + 1] = {own, figure}
  elseif measure == 'q' or measure == 'y' then
    scopes[#scopes + 1] = {own, '', measure, -1, ends_at, detail, ''}
  else
    local scope = {own, '', measure, -1, ends_at}
    if figure ~= '' or limit ~= '' then scope[4] = int(figure, 'limit') end
    if limit == '' or plus == '+' then
      key = key + 1
      scope[2] = KEYS[key] or fail('a scope without a limit needs a budget')
    end
    if detail ~= '' then
      key = key + 1
      scope[6], scope[7] = detail, KEYS[key] or fail('a scope with a detail needs the outbox')
    end
    scopes[#scopes + 1] = scope
  end
  key, arg = key + 1, arg + 3
end
if #ARGV ~= arg - 1 then fail('as many scopes in KEYS as in ARGV') end

local now = now_ms()
local account, credit, revoked = account_of(KEYS[1], ARGV[11], ARGV[12])
local before = hold_of(KEYS[2])
call('ZSCORE', KEYS[3], id)
if before then
  local available, held = account and account.available or 0, account and account.held or 0
  if before[STATE] == 'voided' then return {'voided', available, held} end
  local same = before[ACCOUNT] == account_id and before[FLOOR] == floor and before[FIRST] == first
    and before[ASKED] == ceiling and before[RATE] == rate and before[OWNER] == owner
  local same_scopes = before[STATE] == 'posted' or #before[SCOPES] == #scopes
  for i, scope in ipairs(before[SCOPES]) do
    same_scopes = same_scopes and scopes[i] ~= nil and scope[1] == scopes[i][1]
  end
  if not same or not same_scopes then return {'foreign', available, held} end
  return {'placed', before[AMOUNT], available, before[STATE], 1, account and account.shortfalls or 0, before[CEILING]}
end
for _, guard in ipairs(guards) do
  if (call('GET', guard[1]) or '0') ~= guard[2] then return {'directory_changed', 0, 0} end
end
if ARGV[12] ~= '' and revoked then return {'revoked', 0, 0} end
if not account then return {'no_account', 0, 0} end
local function refuse(reason, ...)
  return {reason, account.available, account.held, ...}
end
if account.frozen then return refuse('frozen') end
if ARGV[11] ~= '' and not credit then return refuse('credit_unknown') end
if account.debt > 0 then return refuse('debt') end
if account.rate ~= rate then return refuse('rate_changed', account.rate) end
if most_shortfalls > 0 and account.shortfalls >= most_shortfalls then return refuse('too_many_shortfalls') end

if account.period_ends > 0 and now >= account.period_ends then return refuse('period_over') end

-- An approved quote first: it lowers the ceiling, and the budgets that it lifts count this hold but do not limit it, while
-- they are active and still ask.
local asked_first, asked, lifted = first, ceiling, {}
for i, scope in ipairs(scopes) do
  if scope[3] == 'q' then
    local q = call('HMGET', scope[1], 'state', 'approved_max', 'expires_at', 'digest', 'lifts')
    if not q[1] then return refuse('quote_unknown', i, 0, 0, 0) end
    if q[4] ~= scope[6] then return refuse('quote_mismatch', i, 0, 0, 0) end
    if q[1] == 'used' or q[1] == 'refused' then return refuse('quote_' .. q[1], i, 0, 0, 0) end
    if now >= stored(q[3], 'expires_at') then return refuse('quote_expired', i, 0, 0, 0) end
    if q[1] ~= 'approved' then return refuse('quote_open', i, 0, 0, 0) end
    ceiling = math.min(ceiling, stored(q[2], 'approved_max'))
    first = math.min(first, ceiling)
    if floor > ceiling then return refuse('limit', i, ceiling, 0, 0) end
    for id in string.gmatch(q[5] or '', '%S+') do lifted[id] = true end
  end
end

local room, counters = account.available, {}
for i, scope in ipairs(scopes) do
  local measure, limit = scope[3], scope[4]
  if scope[5] > 0 and now >= scope[5] then return refuse('stale_window', i, 0, 0, 0) end
  if scope[2] ~= '' then
    local state
    limit, state = limit_of(scope[2], scope[4], now)
    if not limit then return refuse('no_budget', i, 0, 0, 0) end
    if state ~= 'active' then return refuse('paused', i, limit, 0, 0) end
    if lifted[budget_name(scope[2])] and scope_detail(scope[6]) == 'ask' then limit, scope[8] = EXACT, 1 end
  end
  if measure == 'y' then
    call('HGET', scope[1], scope[6])
    counters[i] = {used = 0, held = 0}
  elseif measure == 'q' then
    counters[i] = {used = 0, held = 0}
  else
    local v = call('HMGET', scope[1], 'used', 'held')
    local used, held = stored(v[1], 'used'), stored(v[2], 'held')
    if measure == 's' then limit = share_of(account.available + account.held, limit) end
    local left, least = limit - used - held, floor
    if measure == 'u' or measure == 'o' then least = 1 else room = math.min(room, left) end
    if left < least then return refuse('limit', i, limit, used, held) end
    counters[i] = {used = used, held = held, fresh = not v[1]}
  end
end
if room < floor then return refuse('insufficient') end

local grant = math.min(first, room)
local must_end = now + greatest_age
local renewed_until = owner == '' and math.min(now + lifetime, must_end) or must_end
local split = {}
reserve(account, split, grant)
local granted = digits(grant)
journal(KEYS[4], 'place', now, account_id, id, '-' .. granted .. ' ' .. granted .. ' 0 0 0',
  owner ~= '' and ' owner=' .. owner or '')
save_account(KEYS[1], account)
call('SET', KEYS[2], cmsgpack.pack({'open', account_id, floor, asked_first, ceiling, grant, 0, 0, 0, rate, worker, owner,
  now, renewed_until, lifetime, must_end, 0, split, scopes, labels, '', -1, asked}))
call('ZADD', KEYS[3], digits(owner == '' and renewed_until or EXACT), id)
for i, scope in ipairs(scopes) do
  local measure = scope[3]
  if measure == 'q' then
    call('HSET', scope[1], 'state', 'used', 'hold', id)
  elseif measure ~= 'y' then
    local one = measure == 'u' or measure == 'o'
    local held = counters[i].held + (one and 1 or grant)
    if not counters[i].fresh then
      call('HSET', scope[1], 'held', digits(held))
    else
      call('HSET', scope[1], 'used', '0', 'held', digits(held))
      if scope[5] > 0 then call('PEXPIREAT', scope[1], digits(scope[5] + outlives)) end
    end
  end
end
return {'placed', grant, account.available, 'open', 0, account.shortfalls, ceiling}
